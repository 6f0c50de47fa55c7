//! attack: declares a thousand knobs
//! expect: host-denied
//! says: more than 128 knobs

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let sum: f64 = (0..1000).map(|n| knobs::number(&format!("k{n}"), 1.0, 0.0, 2.0, knobs::Linear)).sum();
        Ok(sum.to_string().into())
    }
}

export_function!(Guest);
