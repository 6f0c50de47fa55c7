//! Panics in a way that the input names.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let number = usize::from(input[0]);
        match number {
            0 => panic!("the glass is broken"),
            1 => Ok(vec![input[number + 100]]),
            2 => Ok(vec![100 / std::hint::black_box(input[1])]),
            3 => Err::<Vec<u8>, _>("nothing").map(Ok).unwrap(),
            _ => Ok(vec![]),
        }
    }
}

export_function!(Guest);
