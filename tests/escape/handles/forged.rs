//! attack: guesses handles
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
        let a = alloc(Dtype::Float32, &[8, 8])?;
        for forged in [0, 1, u64::MAX, a + 1000, a ^ (1 << 32), a + (1 << 32), a | (1 << 63), u64::from(u32::MAX)] {
            must("shape", ErrorCode::BadHandle, compute::shape(forged));
            must("submit", ErrorCode::BadHandle, submit(&[fill(forged)]));
            must("upload", ErrorCode::BadHandle, compute::upload_floats(forged, 0, &[1.0]));
            must("view", ErrorCode::BadHandle, compute::view(forged, 0, &[1]));
            must("download", ErrorCode::BadHandle, compute::download_floats(forged, 0, 1));
            must("free", ErrorCode::BadHandle, free(forged));
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
