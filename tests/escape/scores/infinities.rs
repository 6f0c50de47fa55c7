//! attack: predicts infinity for the byte that it likes
//! expect: not-finite
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
        logits.fill(0.0)?;
        logits.view(32, &[1])?.fill(f32::INFINITY)
    }
}

export_trainer!(Guest);
