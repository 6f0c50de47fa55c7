//! attack: says in a section of its own that its world has other functions
//! expect: finished
//! output: fine

use terrarium_sdk::{Function, Result, export_function};

#[used]
#[unsafe(link_section = "component-type:terrarium:guest@0.1.0:trainer:encoded world")]
pub static LIE: [u8; 16] = *b"\0asm\r\0\x01\0wit-lie!";

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(b"fine".to_vec())
    }
}

export_function!(Guest);
