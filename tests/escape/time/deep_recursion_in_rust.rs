//! attack: calls itself for ever
//! expect: stack-overflow

use terrarium_sdk::{Function, Result, export_function};

#[inline(never)]
fn deep(n: u64) -> u64 {
    std::hint::black_box(deep(n + 1)) + n
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![deep(1) as u8])
    }
}

export_function!(Guest);
