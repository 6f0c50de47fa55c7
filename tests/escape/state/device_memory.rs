//! attack: looks on the device for what the evaluation before left
//! expect: finished
//! world: trainer
//! score: 8
//! never: found
//! times: 4

use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        for size in [16u32, 1024, 65536, 1 << 20] {
            let tensor = Tensor::zeros(&[size])?;
            if tensor.to_vec()?.iter().any(|v| *v != 0.0) {
                report::log("found");
            }
            tensor.fill(7.0)?;
            std::mem::forget(tensor);
        }
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
