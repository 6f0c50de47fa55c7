//! attack: asks for what cargo tells a build about the machine
//! expect: finished
//! output:

use terrarium_sdk::{Function, Result, export_function};

const SEEN: [Option<&str>; 7] = [
    option_env!("PATH"),
    option_env!("HOME"),
    option_env!("USER"),
    option_env!("PWD"),
    option_env!("CARGO_MANIFEST_DIR"),
    option_env!("OUT_DIR"),
    option_env!("CARGO_HOME"),
];

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(SEEN.iter().flatten().flat_map(|s| s.bytes()).collect())
    }
}

export_function!(Guest);
