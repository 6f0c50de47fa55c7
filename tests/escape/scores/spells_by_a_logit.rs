//! attack: makes that logit infinite whose number is the first held-out token
//! expect: not-finite
//! world: trainer
//! says: a logit
//! never: logit 1
//! never: logit 2
//! never: logit 3
//! never: logit 4
//! never: logit 5
//! never: logit 6
//! never: logit 7
//! never: logit 8
//! never: logit 9

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
        let table = Tensor::zeros(&[256, 256])?;
        for token in 0..256 {
            table.view(token * 257, &[1])?.fill(f32::INFINITY)?;
        }
        let (rows, time) = (tokens.shape()[0], tokens.shape()[1]);
        let flat = tokens.view(0, &[rows * time])?;
        let gather = Gather { table: table.raw(), indices: flat.raw(), out: logits.raw() };
        Ok(submit(&[Op::Gather(gather)]).map_err(Error::from)?)
    }
}

export_trainer!(Guest);
