//! attack: exports the function that sets the fuel
//! expect: rejected
//! says: reserved

use terrarium_sdk::{Function, Result, export_function};

#[unsafe(export_name = "terrarium-fuel-set")]
pub extern "C" fn refill(_: i64) {}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![])
    }
}

export_function!(Guest);
