//! attack: writes files where programs may
//! expect: finished
//! output: 0

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let paths = ["/tmp/terrarium-escape", "/dev/shm/terrarium-escape", "terrarium-escape", "/terrarium-escape"];
        let written = paths.iter().filter(|path| std::fs::write(path, "x").is_ok()).count();
        Ok(written.to_string().into())
    }
}

export_function!(Guest);
