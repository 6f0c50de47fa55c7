//! attack: names a metric like markup, like a formula and like a path
//! expect: finished

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        for name in ["<script>alert(1)</script>", "=cmd|' /C calc'!A0", "../../etc/passwd", "a\tb\nc\rd", "\u{1b}[31m"] {
            report::metric(name, 0, 1.0);
        }
        Ok(vec![])
    }
}

export_function!(Guest);
