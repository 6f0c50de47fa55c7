//! attack: declares one knob twice with different ranges
//! expect: host-denied
//! says: declared twice

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let a = knobs::number("rate", 1.0, 0.0, 2.0, knobs::Linear);
        let b = knobs::number("rate", 1.0, 0.0, 3.0, knobs::Linear);
        Ok((a + b).to_string().into())
    }
}

export_function!(Guest);
