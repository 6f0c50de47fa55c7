//! attack: logs a million lines
//! expect: finished | out-of-fuel
//! limits: log_bytes=10000 fuel=2000000000

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        for n in 0..1_000_000u32 {
            report::log(&n.to_string());
        }
        Ok(vec![])
    }
}

export_function!(Guest);
