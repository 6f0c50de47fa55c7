//! attack: factors and constants that are not finite
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
        let out = alloc(Dtype::Float32, &[4, 8])?;
        let inv_rms = alloc(Dtype::Float32, &[4])?;
        let one = alloc(Dtype::Float32, &[1])?;
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let norm = compute::RmsNorm { x, out, inv_rms, eps: bad };
            must("eps", ErrorCode::InvalidArgument, submit(&[Op::RmsNorm(norm)]));
            let random = compute::Random { dst: x, seed: 1, stream: 1, distribution: compute::Distribution::Normal, scale: bad };
            must("scale", ErrorCode::InvalidArgument, submit(&[Op::Random(random)]));
            let sum = compute::Reduce { src: x, dst: one, axis: compute::ReduceAxis::All, scale: bad, accumulate: false };
            must("sum", ErrorCode::InvalidArgument, submit(&[Op::Reduce(sum)]));
        }
        must("eps", ErrorCode::InvalidArgument, submit(&[Op::RmsNorm(compute::RmsNorm { x, out, inv_rms, eps: -1.0 })]));
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
