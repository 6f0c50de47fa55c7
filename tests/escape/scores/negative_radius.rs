//! attack: packs circles of negative radius among huge ones
//! expect: invalid-output
//! via: eval
//! says: outside

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let n = u32::from_le_bytes([input[0], input[1], input[2], input[3]]) as usize;
        Ok((0..n).flat_map(|i| [0.5, 0.5, if i % 2 == 0 { 0.5 } else { -0.4 }]).flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Guest);
