//! attack: finds its budget as it must be
//! expect: finished
//! world: trainer
//! score: 8
//! says: 0 of
//! never: used
//! times: 4

use terrarium_sdk::{budget, report};
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        let now = budget::get();
        report::log(&format!("{} of {}", now.device_fuel_total - now.device_fuel_left, now.device_fuel_total));
        if now.progress != 0.0 {
            report::log("used");
        }
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let a = Tensor::zeros(&[1 << 16])?;
        for _ in 0..100 {
            a.fill(1.0)?;
        }
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
