//! attack: waits for a lock that it holds itself
//! expect: trap
//! limits: fuel=50000000

use terrarium_sdk::{Function, Result, export_function};

static LOCK: std::sync::Mutex<u8> = std::sync::Mutex::new(0);

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let _first = LOCK.lock();
        let _second = LOCK.lock();
        Ok(vec![])
    }
}

export_function!(Guest);
