//! Never returns.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let mut n = input.len() as u64;
        loop {
            n = std::hint::black_box(n.wrapping_mul(3));
            if n == 1 << 63 {
                return Ok(Vec::new());
            }
        }
    }
}

export_function!(Guest);
