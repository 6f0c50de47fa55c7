//! Recurses without an end.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

#[inline(never)]
fn down(n: u64) -> u64 {
    std::hint::black_box(down(std::hint::black_box(n) + 1)) + 1
}

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        Ok(down(input.len() as u64).to_le_bytes().into())
    }
}

export_function!(Guest);
