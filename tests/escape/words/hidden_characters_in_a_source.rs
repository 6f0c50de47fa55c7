//! attack: has a source whose shown order is not its real one
//! expect: finished
//! output: 36

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let level = "user\u{202e} \u{2066}// only for admins\u{2069} \u{2066}";
        Ok(level.len().to_string().into())
    }
}

export_function!(Guest);
