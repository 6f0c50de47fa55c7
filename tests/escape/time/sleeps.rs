//! attack: sleeps for an hour
//! expect: trap

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        std::thread::sleep(std::time::Duration::from_secs(3600));
        Ok(vec![])
    }
}

export_function!(Guest);
