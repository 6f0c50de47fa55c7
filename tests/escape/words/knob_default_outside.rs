//! attack: declares a choice whose default is not there
//! expect: host-denied
//! says: default among them

use terrarium_sdk::knobs;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let value = knobs::choice("c", u32::MAX, &["x", "y"]) as f64;
        Ok(value.to_string().into())
    }
}

export_function!(Guest);
