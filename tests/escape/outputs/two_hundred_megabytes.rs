//! attack: returns two hundred megabytes
//! expect: output-too-large
//! limits: memory_bytes=536870912
//! times: 2

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![7; 200 << 20])
    }
}

export_function!(Guest);
