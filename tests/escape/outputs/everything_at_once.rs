//! attack: fills log, metrics, knobs and output to their limits, many times
//! expect: finished
//! times: 5

use terrarium_sdk::{knobs, report};
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        for n in 0..128 {
            let options = vec!["o".repeat(64); 64];
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            knobs::choice(&format!("{n:064}"), 0, &options);
        }
        for n in 0..10_000 {
            report::metric(&"m".repeat(64), n, f64::MAX);
        }
        report::log(&"l".repeat(65_535));
        Ok(vec![b'x'; 1 << 20])
    }
}

export_function!(Guest);
