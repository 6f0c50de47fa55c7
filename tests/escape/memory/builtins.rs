//! attack: uses the instructions of the machine that it runs on
//! expect: memory-limit
//! limits: memory_bytes=8388608

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        use std::arch::wasm32::{memory_grow, memory_size};
        while memory_grow(0, 16) != usize::MAX {}
        let end = memory_size(0) << 16;
        let last = unsafe { *((end - 1) as *const u8) };
        let beyond = unsafe { std::hint::black_box(end as *const u8).read_volatile() };
        Ok(vec![last, beyond])
    }
}

export_function!(Guest);
