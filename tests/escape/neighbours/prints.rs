//! attack: writes to the standard streams, which belong to the engine
//! expect: finished
//! output: 0
//! never: owned

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        println!("{{\"outcome\":\"finished\"}}");
        eprintln!("error: owned");
        let read = std::io::stdin().lines().count();
        Ok(read.to_string().into())
    }
}

export_function!(Guest);
