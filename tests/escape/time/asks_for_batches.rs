//! attack: draws batches for ever
//! expect: device-fuel
//! world: trainer
//! limits: device_fuel=100000000

use terrarium_sdk::data;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let a = Tensor::zeros_int(&[8, 64])?;
        let b = Tensor::zeros_int(&[8, 64])?;
        loop {
            data::next_batch(&a, &b)?;
        }
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
