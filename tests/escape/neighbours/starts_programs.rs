//! attack: starts programs that go on when it is gone
//! expect: finished
//! output: 0

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        let programs = ["/bin/sh", "sh", "/usr/bin/env", "/proc/self/exe"];
        let started = programs.iter().filter(|p| std::process::Command::new(p).arg("-c").arg("sleep 600").spawn().is_ok()).count();
        Ok(started.to_string().into())
    }
}

export_function!(Guest);
