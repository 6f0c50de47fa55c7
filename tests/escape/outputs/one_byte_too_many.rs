//! attack: returns one byte more than it may
//! expect: output-too-large
//! limits: output_bytes=1000

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![7; 1001])
    }
}

export_function!(Guest);
