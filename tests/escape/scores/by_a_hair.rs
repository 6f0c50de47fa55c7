//! attack: packs circles that overlap by less than anybody would see
//! expect: invalid-output
//! via: eval
//! says: overlap

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let n = u32::from_le_bytes([input[0], input[1], input[2], input[3]]) as usize;
        Ok((0..n).flat_map(|i| [(i % 6) as f64 * 0.15 + 0.1, (i / 6) as f64 * 0.15 + 0.1, 0.075 + 1e-12]).flat_map(f64::to_le_bytes).collect())
    }
}

export_function!(Guest);
