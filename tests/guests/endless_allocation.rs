//! Keeps everything it ever allocated.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        loop {
            kept.push(vec![input.len() as u8; 1 << 20]);
            std::hint::black_box(&kept);
        }
    }
}

export_function!(Guest);
