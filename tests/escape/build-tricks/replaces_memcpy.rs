//! attack: replaces the function that copies memory, with one that calls itself
//! expect: finished

use terrarium_sdk::{Function, Result, export_function};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    unsafe { std::ptr::copy_nonoverlapping(from, to, std::hint::black_box(n)) };
    to
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        Ok(input.to_vec())
    }
}

export_function!(Guest);
