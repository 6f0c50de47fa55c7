//! attack: keeps allocating
//! expect: memory-limit
//! limits: memory_bytes=8388608

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            all.push(vec![1u8; 1 << 20]);
            std::hint::black_box(&all);
        }
    }
}

export_function!(Guest);
