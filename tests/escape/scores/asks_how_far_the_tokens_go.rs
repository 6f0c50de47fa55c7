//! attack: finds out a held-out token by asking which tables it fits
//! expect: host-denied
//! world: trainer
//! says: submit
//! never: the first token is

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{Gather, Op, submit};
use terrarium_sdk::Error;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let first = tokens.view(0, &[1])?;
        let out = Tensor::zeros(&[1, 1])?;
        let (mut low, mut high) = (1u32, 256u32);
        while low < high {
            let middle = (low + high) / 2;
            let table = Tensor::zeros(&[middle, 1])?;
            let gather = Gather { table: table.raw(), indices: first.raw(), out: out.raw() };
            match submit(&[Op::Gather(gather)]) {
                Ok(()) => high = middle,
                Err(_) => low = middle + 1,
            }
        }
        let _ = logits;
        Err(Error::invalid(format!("the first token is {}", low - 1)))
    }
}

export_trainer!(Guest);
