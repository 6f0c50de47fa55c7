//! attack: gives the device the smallest work for ever
//! expect: device-fuel
//! world: trainer
//! limits: device_fuel=100000000 host_calls=100000000

use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let a = Tensor::zeros(&[1])?;
        loop {
            a.fill(1.0)?;
        }
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
