//! Uploads more than the quota of transfers.

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
        let a = Tensor::zeros(&[65536])?;
        let values = vec![1.0; 65536];
        loop {
            a.upload(&values)?;
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
