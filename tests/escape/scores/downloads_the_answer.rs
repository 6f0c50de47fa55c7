//! attack: reads the held-out tokens
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
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let seen = tokens.download_ints(16)?;
        logits.fill(seen[0] as f32)
    }
}

export_trainer!(Guest);
