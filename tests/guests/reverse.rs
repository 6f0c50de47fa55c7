//! Well behaved: answers the input backwards.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        Ok(input.iter().rev().copied().collect())
    }
}

export_function!(Guest);
