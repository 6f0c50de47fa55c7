//! attack: leaves no device memory for the host
//! expect: quota
//! world: trainer
//! says: device_bytes
//! limits: device_bytes=8388608

use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let mut size = 1u32 << 24;
        while size > 0 {
            match Tensor::zeros(&[size]) {
                Ok(tensor) => std::mem::forget(tensor),
                Err(_) => size /= 2,
            }
        }
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
