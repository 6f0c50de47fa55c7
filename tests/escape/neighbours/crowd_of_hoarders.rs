//! attack: fills the memory of the device many times
//! expect: quota
//! world: trainer
//! times: 5
//! limits: device_bytes=268435456

use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        while let Ok(tensor) = Tensor::zeros(&[1 << 22]) {
            tensor.fill(1.0)?;
            std::mem::forget(tensor);
        }
        while let Ok(tensor) = Tensor::zeros(&[1]) {
            std::mem::forget(tensor);
        }
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
