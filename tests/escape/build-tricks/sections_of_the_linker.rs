//! attack: writes into sections that only the linker writes
//! expect: compile-error
//! output: fine

use terrarium_sdk::{Function, Result, export_function};

#[used]
#[unsafe(link_section = "linking")]
pub static A: [u8; 8] = [0xff; 8];
#[used]
#[unsafe(link_section = "reloc.CODE")]
pub static B: [u8; 8] = [0xff; 8];
#[used]
#[unsafe(link_section = "name")]
pub static C: [u8; 8] = [0xff; 8];

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(b"fine".to_vec())
    }
}

export_function!(Guest);
