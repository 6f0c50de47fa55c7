//! attack: answers with fresh random numbers
//! expect: probe-failed
//! world: trainer
//! keys: 6

use terrarium_sdk::Distribution;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest {
    calls: u64
}

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self { calls: 0 })
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        self.calls += 1;
        logits.randomize(Distribution::Normal, 1.0, self.calls, 1)
    }
}

export_trainer!(Guest);
