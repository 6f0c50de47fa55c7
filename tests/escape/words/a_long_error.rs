//! attack: returns an error of sixteen megabytes
//! expect: guest-error

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Err(terrarium_sdk::Error::invalid("x".repeat(16 << 20)))
    }
}

export_function!(Guest);
