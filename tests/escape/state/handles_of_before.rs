//! attack: uses the handles that an evaluation before it had
//! expect: finished
//! world: trainer
//! score: 8
//! never: found
//! times: 4

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::shape;
use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        for generation in 0..40u64 {
            for slot in 0..40 {
                if shape((generation << 32) | slot).is_ok() {
                    report::log("found");
                }
            }
        }
        for _ in 0..20 {
            std::mem::forget(Tensor::zeros(&[4])?);
        }
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
