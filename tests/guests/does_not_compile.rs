//! A type error on line 9.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;
impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let n: u32 = "seven";
        Ok(vec![n as u8; input.len()])
    }
}

export_function!(Guest);
