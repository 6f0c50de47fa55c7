//! attack: clears the screen, renames the window and hides what it says, in the log
//! expect: finished
//! says: before
//! says: after

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        report::log("before\u{1b}[2J\u{1b}]0;owned\u{7}\u{1b}[8m\u{9b}31m\r\u{8}after");
        Ok(vec![])
    }
}

export_function!(Guest);
