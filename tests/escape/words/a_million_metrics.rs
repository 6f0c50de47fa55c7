//! attack: reports a million metrics with names of a kilobyte
//! expect: finished
//! limits: metrics=1000

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let name = "m".repeat(1024);
        for n in 0..200_000u64 {
            report::metric(&name, n, f64::NAN);
        }
        Ok(vec![])
    }
}

export_function!(Guest);
