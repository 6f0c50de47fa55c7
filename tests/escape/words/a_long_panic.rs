//! attack: panics with sixteen megabytes
//! expect: trap
//! limits: log_bytes=10000

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        panic!("{}", "x".repeat(4 << 20))
    }
}

export_function!(Guest);
