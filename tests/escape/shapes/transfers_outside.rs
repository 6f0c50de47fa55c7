//! attack: uploads and downloads that leave their tensor
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
        let ints = alloc(Dtype::Int32, &[64])?;
        for offset in [64, 63, u64::MAX, u64::MAX - 3, 1 << 62] {
            must("upload", ErrorCode::InvalidArgument, compute::upload_floats(a, offset, &[1.0, 2.0]));
            must("download", ErrorCode::InvalidArgument, compute::download_floats(a, offset, 2));
            must("ints", ErrorCode::InvalidArgument, compute::upload_ints(ints, offset, &[1, 2]));
        }
        must("too much", ErrorCode::InvalidArgument, compute::download_floats(a, 0, 65));
        must("another type", ErrorCode::ShapeMismatch, compute::upload_ints(a, 0, &[1]));
        must("another type", ErrorCode::ShapeMismatch, compute::download_floats(ints, 0, 1));
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
