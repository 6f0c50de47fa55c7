//! attack: tells by the way in which it fails what it was given
//! expect: guest-error
//! world: trainer
//! says: a word

use terrarium_sdk::Error;
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
        let _ = (tokens.shape(), logits);
        Err(Error::invalid("a word"))
    }
}

export_trainer!(Guest);
