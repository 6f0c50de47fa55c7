//! attack: reads a clock, to tell a probe from a batch
//! expect: trap
//! world: trainer

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
        let now = std::time::Instant::now();
        logits.fill(now.elapsed().as_secs_f32())
    }
}

export_trainer!(Guest);
