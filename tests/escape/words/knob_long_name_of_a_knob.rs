//! attack: names a knob with a megabyte
//! expect: host-denied
//! says: over 64 bytes

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::number(&"x".repeat(1 << 20), 1.0, 0.0, 2.0, knobs::Linear);
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
