//! attack: panics with escape sequences
//! expect: trap
//! says: yes

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        panic!("no\u{1b}]0;owned\u{7}\u{1b}[31m\r\0yes")
    }
}

export_function!(Guest);
