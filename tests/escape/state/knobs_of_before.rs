//! attack: declares other knobs than before
//! expect: finished
//! output: 1
//! times: 6

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let before = knobs::number("rate", 1.0, 0.0, 2.0, knobs::Linear);
        Ok(before.to_string().into())
    }
}

export_function!(Guest);
