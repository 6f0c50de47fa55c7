//! attack: imports the file calls of WASI
//! expect: rejected
//! says: wasi_snapshot_preview1

use terrarium_sdk::{Function, Result, export_function};

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn fd_write(fd: i32, parts: *const u8, count: i32, written: *mut i32) -> i32;
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        unsafe { fd_write(1, std::ptr::null(), 0, std::ptr::null_mut()) };
        Ok(vec![])
    }
}

export_function!(Guest);
