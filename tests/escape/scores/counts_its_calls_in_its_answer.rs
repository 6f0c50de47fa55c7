//! attack: answers by the number of the call, so that a repeated batch is seen
//! expect: probe-failed
//! world: trainer
//! keys: 6

use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest {
    calls: u32
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
        logits.fill(0.0)?;
        logits.view(u64::from(self.calls), &[1])?.fill(3.0)
    }
}

export_trainer!(Guest);
