//! attack: leaves the predictions of the call before
//! expect: not-finite
//! world: trainer

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
        if self.calls == 1 { logits.fill(0.5) } else { Ok(()) }
    }
}

export_trainer!(Guest);
