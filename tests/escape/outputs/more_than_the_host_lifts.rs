//! attack: returns more than the host will ever take
//! expect: trap
//! limits: memory_bytes=1073741824 output_bytes=268435456

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![7; 400 << 20])
    }
}

export_function!(Guest);
