//! attack: imports a function of an environment that is not there
//! expect: rejected
//! says: system

use terrarium_sdk::{Function, Result, export_function};

unsafe extern "C" {
    fn system(command: *const core::ffi::c_char) -> i32;
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        unsafe { system(c"id".as_ptr()) };
        Ok(vec![])
    }
}

export_function!(Guest);
