//! attack: asks for the number of its process, to send it signals
//! expect: trap | finished

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(std::process::id().to_string().into())
    }
}

export_function!(Guest);
