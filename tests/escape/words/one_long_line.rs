//! attack: logs a line of sixteen megabytes, a hundred times
//! expect: finished
//! limits: log_bytes=10000 wall_ms=60000

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let line = "x".repeat(16 << 20);
        for _ in 0..100 {
            report::log(&line);
        }
        Ok(vec![])
    }
}

export_function!(Guest);
