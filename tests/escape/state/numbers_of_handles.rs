//! attack: learns from the numbers of its handles how many there were before
//! expect: finished
//! world: trainer
//! score: 8
//! says: first 4294967296
//! times: 4

use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        let tensors: Vec<Tensor> = (0..10).map(|_| Tensor::zeros(&[4])).collect::<Result<_>>()?;
        report::log(&format!("first {}", tensors[0].raw()));
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
