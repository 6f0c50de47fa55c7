//! attack: attention over shapes, heads and windows that do not fit
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
        let q = alloc(Dtype::Float32, &[1, 8, 3, 4])?;
        let k = alloc(Dtype::Float32, &[1, 8, 2, 4])?;
        let v = alloc(Dtype::Float32, &[1, 8, 2, 4])?;
        let out = alloc(Dtype::Float32, &[1, 8, 3, 4])?;
        let lse = alloc(Dtype::Float32, &[1, 3, 8])?;
        let attend = |q, k, v, out, lse, window| {
            Op::Attention(compute::Attention { q, k, v, out, lse, window, scale: 1.0 })
        };
        must("heads", ErrorCode::ShapeMismatch, submit(&[attend(q, k, v, out, lse, 0)]));
        must("window", ErrorCode::InvalidArgument, submit(&[attend(q, q, q, out, lse, 9)]));
        must("window", ErrorCode::InvalidArgument, submit(&[attend(q, q, q, out, lse, u32::MAX)]));
        must("alias", ErrorCode::Alias, submit(&[attend(q, q, q, q, lse, 0)]));
        let odd = alloc(Dtype::Float32, &[1, 8, 3, 5])?;
        let turned = alloc(Dtype::Float32, &[1, 8, 3, 5])?;
        let rope = compute::Rope { x: odd, out: turned, base: 0.0, inverse: false };
        must("base", ErrorCode::InvalidArgument, submit(&[Op::Rope(rope)]));
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
