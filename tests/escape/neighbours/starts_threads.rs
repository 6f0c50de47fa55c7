//! attack: starts threads
//! expect: finished
//! output: 0

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let started = (0..8).filter(|_| std::thread::Builder::new().spawn(|| loop {}).is_ok()).count();
        Ok(started.to_string().into())
    }
}

export_function!(Guest);
