//! attack: logs and reports while held-out data is in play
//! expect: finished
//! world: trainer
//! score: 8
//! never: secret

use terrarium_sdk::report;
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
        report::log("secret");
        report::metric("secret", 0, 1.0);
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
