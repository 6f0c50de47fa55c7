//! attack: counts its calls in a static
//! expect: finished
//! output: 0
//! times: 6

use terrarium_sdk::{Function, Result, export_function};

static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string().into())
    }
}

export_function!(Guest);
