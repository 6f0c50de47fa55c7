//! attack: operations whose scratch memory might count against nobody
//! expect: finished
//! world: trainer
//! score: 8
//! limits: device_bytes=33554432 device_fuel=1152921504606846976

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{self, Op, submit};
use terrarium_sdk::Error;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let a = Tensor::zeros(&[1, 1 << 20])?;
        let b = Tensor::zeros(&[1, 1 << 20])?;
        let c = Tensor::zeros(&[1, 1])?;
        let op = compute::Matmul { a: a.raw(), b: b.raw(), out: c.raw(), trans_a: false, trans_b: true, alpha: 1.0, accumulate: false };
        for _ in 0..50 {
            submit(&[Op::Matmul(op)]).map_err(Error::from)?;
        }
        Ok(())
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
