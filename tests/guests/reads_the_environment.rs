//! Asks the compiler for its environment.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let _ = input;
        let seen = [option_env!("SECRET_KEY"), option_env!("HOME"), option_env!("USER"), option_env!("PATH")];
        Ok(seen.iter().flatten().flat_map(|value| value.bytes()).collect())
    }
}

export_function!(Guest);
