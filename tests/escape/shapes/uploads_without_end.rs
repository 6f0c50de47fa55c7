//! attack: uploads for ever
//! expect: quota
//! world: trainer
//! says: transfer_bytes
//! limits: transfer_bytes=1048576

use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let a = Tensor::zeros(&[1024])?;
        loop {
            a.upload(&[1.0; 1024])?;
        }
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
