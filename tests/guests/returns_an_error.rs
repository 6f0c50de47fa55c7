//! Gives up with a message.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let _ = input;
        Err(terrarium_sdk::Error::invalid("no packing today \u{1b}[2J"))
    }
}

export_function!(Guest);
