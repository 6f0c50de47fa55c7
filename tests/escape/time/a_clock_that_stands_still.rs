//! attack: waits for time to pass, to measure it
//! expect: out-of-fuel
//! world: trainer
//! limits: fuel=50000000

use terrarium_sdk::budget;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let begin = budget::get();
        while budget::get().progress == begin.progress {}
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
