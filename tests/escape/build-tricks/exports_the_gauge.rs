//! attack: exports the function that reads the fuel, to say that none was used
//! expect: rejected
//! says: reserved

use terrarium_sdk::{Function, Result, export_function};

#[unsafe(export_name = "terrarium-fuel-get")]
pub extern "C" fn full() -> i64 {
    i64::MAX
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![])
    }
}

export_function!(Guest);
