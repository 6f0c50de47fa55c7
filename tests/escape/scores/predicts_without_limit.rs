//! attack: does more while predicting than training may cost
//! expect: device-fuel
//! world: trainer
//! limits: forward_device_fuel=100000000

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
        loop {
            logits.fill(0.5)?;
        }
    }
}

export_trainer!(Guest);
