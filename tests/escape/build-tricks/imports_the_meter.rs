//! attack: imports the function that sets the fuel
//! expect: rejected
//! says: terrarium-fuel-set

use terrarium_sdk::{Function, Result, export_function};

#[link(wasm_import_module = "$root")]
unsafe extern "C" {
    #[link_name = "terrarium-fuel-set"]
    fn set(fuel: i64);
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        unsafe { set(i64::MAX) };
        Ok(vec![])
    }
}

export_function!(Guest);
