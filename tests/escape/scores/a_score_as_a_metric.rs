//! attack: reports the score that it would like to have
//! expect: finished
//! world: trainer
//! score: 8

use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        for name in ["val_bpb", "score", "bits_per_byte", "held_out"] {
            report::metric(name, 0, 0.01);
        }
        report::log("{\"bits_per_byte\":0.01}");
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
