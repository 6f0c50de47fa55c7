//! attack: defines the function through which the host allocates
//! expect: compile-error

use terrarium_sdk::{Function, Result, export_function};

#[unsafe(no_mangle)]
pub extern "C" fn cabi_realloc(_: *mut u8, _: usize, _: usize, _: usize) -> *mut u8 {
    usize::MAX as *mut u8
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(b"fine".to_vec())
    }
}

export_function!(Guest);
