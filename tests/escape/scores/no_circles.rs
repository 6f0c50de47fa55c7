//! attack: returns nothing, whose sum is whatever one likes
//! expect: invalid-output
//! via: eval
//! says: 0 bytes

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let _ = input;
        Ok(vec![])
    }
}

export_function!(Guest);
