//! attack: declares an integer outside of its range
//! expect: host-denied
//! says: low ≤ default ≤ high

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::integer("n", i64::MAX, i64::MIN, 0, knobs::Linear) as f64;
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
