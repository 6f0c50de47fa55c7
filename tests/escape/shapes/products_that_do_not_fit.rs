//! attack: products of shapes that do not fit
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
        let a = alloc(Dtype::Float32, &[2, 3, 4])?;
        let b = alloc(Dtype::Float32, &[3, 4, 5])?;
        let c = alloc(Dtype::Float32, &[2, 3, 5])?;
        let ints = alloc(Dtype::Int32, &[2, 4, 5])?;
        let flat = alloc(Dtype::Float32, &[60])?;
        for (a, b, out) in [(a, b, c), (a, c, b), (a, ints, c), (flat, flat, c), (a, a, a)] {
            let op = compute::Matmul { a, b, out, trans_a: false, trans_b: false, alpha: 1.0, accumulate: false };
            must("product", ErrorCode::ShapeMismatch, submit(&[Op::Matmul(op)]));
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
