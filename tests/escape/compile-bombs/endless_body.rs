//! attack: one function that is too much for an optimiser
//! expect: deadline | rejected

use terrarium_sdk::{Function, Result, export_function};

macro_rules! many {
    ($x:ident $($n:literal)*) => { $($x = std::hint::black_box($x).rotate_left($n) ^ $n;)* };
}

#[inline(never)]
fn work(mut x: u64) -> u64 {
    many!(x «12000 × # »);
    x
}

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![work(input.len() as u64) as u8])
    }
}

export_function!(Guest);
