//! Trains with many steps of device work.

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
        let (a, b) = (Tensor::full(&[256, 256], 0.01)?, Tensor::zeros(&[256, 256])?);
        for _ in 0..1500 {
            let matmul = compute::Matmul {
                a: a.raw(), b: a.raw(), out: b.raw(), trans_a: false, trans_b: false, alpha: 1.0, accumulate: false,
            };
            compute::submit(&[Op::Matmul(matmul)]).map_err(Error::from)?;
        }
        Ok(())
    }
    fn forward(&mut self, tokens: &Tensor, logits: &Tensor) -> Result<()> {
        let _ = tokens;
        logits.fill(0.0)
    }
}

export_trainer!(Guest);
