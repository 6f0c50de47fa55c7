//! attack: declares a knob from NaN to infinity
//! expect: host-denied
//! says: finite

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::number("rate", f64::NAN, f64::NAN, f64::INFINITY, knobs::Linear);
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
