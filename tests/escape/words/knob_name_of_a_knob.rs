//! attack: names a knob with escape sequences
//! expect: host-denied
//! says: not plain text

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::number("rate\u{1b}[31m", 1.0, 0.0, 2.0, knobs::Linear);
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
