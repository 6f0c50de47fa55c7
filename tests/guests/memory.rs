//! Answers each call with what it remembers: how many calls there were before,
//! and the last input.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Memory {
    calls: u8,
    last: Vec<u8>,
}

impl Function for Memory {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let mut answer = vec![self.calls];
        answer.extend(&self.last);
        self.calls += 1;
        self.last = input.to_vec();
        Ok(answer)
    }
}

export_function!(Memory);
