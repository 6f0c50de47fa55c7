//! attack: columns whose sums overflow thirty-two bits
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
        let a = alloc(Dtype::Float32, &[4, 8])?;
        let b = alloc(Dtype::Float32, &[4, 8])?;
        for (src_col, dst_col, width) in [(u32::MAX, 0, 1), (0, u32::MAX, 1), (1, 1, u32::MAX), (7, 0, 2), (0, 0, 0), (1 << 31, 0, 1 << 31)] {
            let columns = compute::Columns { src: a, src_col, dst: b, dst_col, width, accumulate: false };
            must("columns", ErrorCode::InvalidArgument, submit(&[Op::Columns(columns)]));
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
