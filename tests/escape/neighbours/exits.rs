//! attack: ends its process
//! expect: trap

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        std::process::exit(0)
    }
}

export_function!(Guest);
