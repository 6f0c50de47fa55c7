//! Asks for device work until the budget refuses, and calls that an error.

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
        let a = Tensor::zeros(&[256, 256])?;
        loop {
            a.fill(1.0)?;
        }
        #[allow(unreachable_code)]
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let _ = tokens;
        logits.fill(0.0)
    }
}

export_trainer!(Guest);
