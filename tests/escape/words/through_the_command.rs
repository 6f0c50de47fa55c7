//! attack: says to a terminal what it must not obey, in log, metrics and error
//! expect: guest-error
//! via: eval
//! says: no packing

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        report::log("\u{1b}[2J\u{1b}]8;;http://evil.example\u{7}click\u{1b}]8;;\u{7}");
        report::log("\r\u{202e}\u{9b}31m");
        report::metric("\u{1b}[2J\u{1b}]8;;http://evil.example\u{7}click\u{1b}]8;;\u{7}", 1, 2.0);
        Err(terrarium_sdk::Error::invalid("\u{1b}[2J\u{1b}]8;;http://evil.example\u{7}click\u{1b}]8;;\u{7} no packing"))
    }
}

export_function!(Guest);
