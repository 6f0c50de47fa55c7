//! attack: declares a logarithmic knob from zero
//! expect: host-denied
//! says: low > 0

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::number("rate", 1.0, 0.0, 2.0, knobs::Logarithmic);
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
