//! attack: writes to the standard streams what a worker would answer
//! expect: finished
//! output: mine

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        use std::io::Write;
        let forged = b"\x00\x00\x00\x10\x81\xa4Done\x80";
        let _ = std::io::stdout().write_all(forged);
        let _ = std::io::stdout().flush();
        Ok(b"mine".to_vec())
    }
}

export_function!(Guest);
