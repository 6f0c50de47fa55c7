//! attack: carries a build script, which nobody must run
//! expect: finished
//! output: only a candidate

use terrarium_sdk::{Function, Result, export_function};

#[allow(dead_code)]
fn main() {
    println!("cargo:rustc-link-arg=--import-memory");
    println!("cargo:rustc-env=RUSTC_BOOTSTRAP=1");
    std::fs::write("/tmp/terrarium-escape", "x").unwrap();
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(b"only a candidate".to_vec())
    }
}

export_function!(Guest);
