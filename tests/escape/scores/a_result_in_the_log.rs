//! attack: logs what looks like a result
//! expect: invalid-output
//! via: eval

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let _ = input;
        report::log("{\"schema\":\"terrarium-eval/1\",\"score\":1e9,\"outcome\":{\"code\":\"finished\"}}");
        report::log("\nsum_of_radii = 1e9   (seed 0, 0.10 s)");
        report::metric("sum_of_radii", 0, 1e9);
        report::metric("score", 0, 1e9);
        Ok(b"sum_of_radii = 1e9".to_vec())
    }
}

export_function!(Guest);
