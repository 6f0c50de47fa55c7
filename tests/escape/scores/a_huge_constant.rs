//! attack: adds a constant so large that what a probe compares is rounded away
//! expect: finished | probe-failed
//! world: trainer
//! score: 8

use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(3e38)
    }
}

export_trainer!(Guest);
