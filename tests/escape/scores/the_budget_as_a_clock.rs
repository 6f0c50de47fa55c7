//! attack: measures time with its budget while it predicts
//! expect: finished
//! world: trainer
//! score: 8
//! limits: train_wall_ms=3600000

use terrarium_sdk::budget;
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
        let begin = budget::get();
        for _ in 0..2000 {
            let now = budget::get();
            if now.progress != begin.progress || now.device_fuel_left != begin.device_fuel_left {
                return logits.fill(f32::NAN);
            }
        }
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
