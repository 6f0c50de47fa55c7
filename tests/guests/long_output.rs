//! Returns as many zeros as the input says.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let length: [u8; 4] = input.try_into().unwrap_or([0; 4]);
        Ok(vec![0; u32::from_le_bytes(length) as usize])
    }
}

export_function!(Guest);
