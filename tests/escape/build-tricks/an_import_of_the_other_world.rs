//! attack: a function imports what trainers have
//! expect: rejected
//! says: describe

use terrarium_sdk::{Function, Result, export_function};

#[link(wasm_import_module = "terrarium:guest/data@0.1.0")]
unsafe extern "C" {
    fn describe(to: *mut u8);
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        unsafe { describe(std::ptr::null_mut()) };
        Ok(vec![])
    }
}

export_function!(Guest);
