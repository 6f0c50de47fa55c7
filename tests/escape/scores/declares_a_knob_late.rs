//! attack: declares a knob while it predicts, so that a search feeds it data
//! expect: host-denied
//! world: trainer
//! says: first time

use terrarium_sdk::knobs;
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
        logits.fill(knobs::float("late", 0.0, 0.0, 1.0, knobs::Linear))
    }
}

export_trainer!(Guest);
