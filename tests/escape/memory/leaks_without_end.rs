//! attack: forgets what it allocates
//! expect: memory-limit
//! limits: memory_bytes=8388608

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        loop {
            std::mem::forget(std::hint::black_box(Box::new([0u64; 512])));
        }
    }
}

export_function!(Guest);
