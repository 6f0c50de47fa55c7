//! attack: learns where on the machine it is compiled
//! expect: finished
//! output: in/candidate.rs candidate in/candidate.rs

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok([file!(), module_path!(), std::panic::Location::caller().file()].join(" ").into())
    }
}

export_function!(Guest);
