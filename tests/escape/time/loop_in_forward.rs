//! attack: runs for ever in `forward`
//! expect: out-of-fuel
//! world: trainer
//! limits: fuel=50000000
//! says: forward

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
        loop {
            std::hint::black_box(0);
        }
    }
}

export_trainer!(Guest);
