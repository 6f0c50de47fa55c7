//! attack: fills the log, in which the next evaluation must find room
//! expect: finished
//! says: the last
//! times: 6
//! limits: log_bytes=9000

use terrarium_sdk::report;
use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        report::log(&"a line. ".repeat(1000));
        report::log("the last");
        Ok(vec![])
    }
}

export_function!(Guest);
