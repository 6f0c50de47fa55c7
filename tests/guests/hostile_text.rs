//! Says what a terminal must never see.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        terrarium_sdk::report::log("before\u{1b}[2J\u{202e}\0\u{200b}after");
        let flood = "x".repeat(1 << 20);
        for _ in 0..input[0] {
            terrarium_sdk::report::log(&flood);
            terrarium_sdk::report::metric(&flood, u64::MAX, f64::NAN);
        }
        Err(terrarium_sdk::Error::invalid(flood + "\u{1b}]0;title\u{7}"))
    }
}

export_function!(Guest);
