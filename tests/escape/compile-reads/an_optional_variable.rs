//! attack: asks for a variable of the engine's environment that may be absent
//! expect: finished
//! output: nothing

use terrarium_sdk::{Function, Result, export_function};

const KEY: Option<&str> = option_env!("TERRARIUM_ESCAPE_KEY");

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(KEY.unwrap_or("nothing").into())
    }
}

export_function!(Guest);
