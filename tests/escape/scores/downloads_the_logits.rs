//! attack: reads its own predictions while held-out data is in play
//! expect: host-denied
//! world: trainer
//! says: download

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
        logits.fill(0.5)?;
        let _ = logits.to_vec()?;
        Ok(())
    }
}

export_trainer!(Guest);
