//! attack: returns as many bytes as it may
//! expect: finished
//! limits: output_bytes=20
//! output: xxxxxxxxxxxxxxxxxxxx

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![b'x'; 20])
    }
}

export_function!(Guest);
