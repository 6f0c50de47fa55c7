//! attack: aborts its process
//! expect: trap
//! times: 5

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        std::process::abort()
    }
}

export_function!(Guest);
