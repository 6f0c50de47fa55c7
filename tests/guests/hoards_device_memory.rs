//! Leaves no device memory to the host.

#[allow(unused_imports)]
use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{self, Op};
#[allow(unused_imports)]
use terrarium_sdk::{Error, Result, Tensor, Trainer, export_trainer, knobs};

struct Guest;

impl Trainer for Guest {
    fn init(seed: u64) -> Result<Self> {
        let _ = seed;
        Ok(Guest)
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
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let _ = tokens;
        logits.fill(0.0)
    }
}

export_trainer!(Guest);
