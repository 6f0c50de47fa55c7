//! attack: asks for more than addresses reach
//! expect: memory-limit
//! limits: memory_bytes=8388608

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let all: Vec<u8> = Vec::with_capacity(isize::MAX as usize);
        Ok(std::hint::black_box(all))
    }
}

export_function!(Guest);
