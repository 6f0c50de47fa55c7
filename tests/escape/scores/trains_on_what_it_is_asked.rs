//! attack: draws batches while held-out data is in play
//! expect: guest-error
//! world: trainer
//! says: denied

use terrarium_sdk::data;
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
        let a = Tensor::zeros_int(tokens.shape())?;
        let b = Tensor::zeros_int(tokens.shape())?;
        data::next_batch(&a, &b)?;
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
