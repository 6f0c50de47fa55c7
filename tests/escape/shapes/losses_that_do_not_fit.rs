//! attack: losses over targets out of range and caps that are no numbers
//! expect: finished
//! world: trainer
//! score: 8
//! never: (
//! never: accepted

#[allow(unused_imports)]
use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{self, Dtype, Error as HostError, ErrorCode, Fill, Op, alloc, free, submit};
use terrarium_sdk::report;
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer};

#[allow(dead_code)]
fn fill(dst: u64) -> Op {
    Op::Fill(Fill { dst, value: 1.0 })
}

fn must<T>(what: &str, code: ErrorCode, got: std::result::Result<T, HostError>) {
    match got {
        Err(e) if e.code == code => {}
        Err(e) => report::log(&format!("{what}: {:?} ({})", e.code, e.detail)),
        Ok(_) => report::log(&format!("{what}: accepted")),
    }
}

struct Guest;

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        let x = alloc(Dtype::Float32, &[4, 8])?;
        let weight = alloc(Dtype::Float32, &[16, 8])?;
        let targets = alloc(Dtype::Int32, &[4])?;
        let losses = alloc(Dtype::Float32, &[4])?;
        let lse = alloc(Dtype::Float32, &[4])?;
        let loss = |softcap| {
            Op::LinearCrossEntropy(compute::LinearCrossEntropy { x, weight, targets, losses, lse, softcap })
        };
        for bad in [f32::NAN, f32::INFINITY, -1.0, 1e-40] {
            must("cap", ErrorCode::InvalidArgument, submit(&[loss(bad)]));
        }
        compute::upload_ints(targets, 0, &[16, i32::MAX, 1 << 20, 3])?;
        must("targets", ErrorCode::IndexRange, submit(&[loss(0.0)]));
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
