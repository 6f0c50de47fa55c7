//! attack: frees the tensors that the host lent it
//! expect: host-denied
//! world: trainer
//! says: freed a tensor of the host

use terrarium_sdk::Error;
use terrarium_sdk::bindings::trainer::terrarium::guest::compute::free;
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
        logits.fill(0.5)?;
        free(tokens.raw()).map_err(Error::from)?;
        Ok(free(logits.raw()).map_err(Error::from)?)
    }
}

export_trainer!(Guest);
