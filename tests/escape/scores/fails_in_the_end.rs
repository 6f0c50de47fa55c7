//! attack: fails where the score is already known
//! expect: guest-error
//! world: trainer
//! never: bits_per_byte

use terrarium_sdk::Error;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest {
    calls: u32
}

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self { calls: 0 })
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        self.calls += 1;
        if self.calls == 7 {
            return Err(Error::invalid("enough"));
        }
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
