//! attack: operations that write what they read
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
        let a = alloc(Dtype::Float32, &[64])?;
        let (left, right) = (compute::view(a, 0, &[40])?, compute::view(a, 24, &[40])?);
        let copy = |src, dst| Op::Copy(compute::CopyCast { src, dst });
        must("overlap", ErrorCode::Alias, submit(&[copy(left, right)]));
        must("itself", ErrorCode::Alias, submit(&[copy(a, a)]));
        let square = compute::view(a, 0, &[8, 8])?;
        let same = compute::view(a, 0, &[8, 8])?;
        must("transpose", ErrorCode::Alias, submit(&[Op::Transpose(compute::Transpose { src: square, dst: same })]));
        let matmul = compute::Matmul { a: square, b: same, out: square, trans_a: false, trans_b: true, alpha: 1.0, accumulate: true };
        must("product", ErrorCode::Alias, submit(&[Op::Matmul(matmul)]));
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
