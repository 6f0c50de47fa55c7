//! attack: looks for what it freed itself
//! expect: finished
//! world: trainer
//! score: 8
//! never: found
//! times: 2

use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        for size in [16u32, 4096, 1 << 18] {
            for _ in 0..8 {
                let tensor = Tensor::zeros(&[size])?;
                if tensor.to_vec()?.iter().any(|v| *v != 0.0) {
                    report::log("found");
                }
                tensor.fill(7.0)?;
            }
        }
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
