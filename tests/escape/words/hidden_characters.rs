//! attack: turns the direction of what is shown, and hides letters
//! expect: finished

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        report::log("h\u{61c}i\u{ad}j\u{fe0f}k\u{e0100}l\u{3164}m\u{fff9}n");
        report::log("a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{e0041}f\u{2028}g");
        report::metric("m\u{202e}n", 0, 1.0);
        Ok(vec![])
    }
}

export_function!(Guest);
