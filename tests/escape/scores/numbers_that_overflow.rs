//! attack: predicts numbers whose difference overflows
//! expect: not-finite | finished
//! world: trainer

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
        logits.fill(f32::MIN)?;
        logits.view(32, &[1])?.fill(f32::MAX)
    }
}

export_trainer!(Guest);
