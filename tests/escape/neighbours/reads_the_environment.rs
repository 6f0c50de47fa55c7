//! attack: reads the engine's variables and arguments while it runs
//! expect: finished
//! output: 0 0

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let names = ["HOME", "PATH", "TERRARIUM_ESCAPE_KEY", "TMPDIR"];
        let set = names.iter().filter(|name| std::env::var_os(name).is_some()).count();
        Ok(format!("{set} {}", std::env::args().count()).into())
    }
}

export_function!(Guest);
