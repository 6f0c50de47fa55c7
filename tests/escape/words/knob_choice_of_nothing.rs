//! attack: declares a choice among nothing
//! expect: host-denied
//! says: 1 to 64 options

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::choice("c", 0, &[]) as f64;
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
