//! attack: runs for ever before it is called
//! expect: out-of-fuel
//! limits: fuel=50000000

use terrarium_sdk::{Function, Result, export_function};

#[used]
#[unsafe(link_section = ".init_array")]
pub static FIRST: extern "C" fn() = spin;

extern "C" fn spin() {
    loop {
        std::hint::black_box(0);
    }
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(b"fine".to_vec())
    }
}

export_function!(Guest);
