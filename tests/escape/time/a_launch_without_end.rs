//! attack: one product that takes minutes
//! expect: guest-error
//! world: trainer
//! limits: device_fuel=1152921504606846976 launch_device_fuel=1000000000 device_bytes=268435456
//! says: launch_device_fuel

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{Matmul, Op, submit};
use terrarium_sdk::Error;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        Ok(Self)
    }
    fn train(&mut self) -> Result<()> {
        let a = Tensor::zeros(&[4096, 4096])?;
        let b = Tensor::zeros(&[4096, 4096])?;
        let c = Tensor::zeros(&[4096, 4096])?;
        let op = Matmul {
            a: a.raw(),
            b: b.raw(),
            out: c.raw(),
            trans_a: true,
            trans_b: false,
            alpha: 1.0,
            accumulate: false,
        };
        Ok(submit(&[Op::Matmul(op)]).map_err(Error::from)?)
    }
    fn forward(&mut self, _tokens: &Tensor, logits: &Tensor) -> Result<()> {
        logits.fill(0.5)
    }
}

export_trainer!(Guest);
