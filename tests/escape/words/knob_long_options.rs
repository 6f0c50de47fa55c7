//! attack: declares options of a megabyte
//! expect: host-denied
//! says: at most 64 bytes

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::choice("c", 0, &["x".repeat(1 << 20).as_str(), "y"]) as f64;
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
