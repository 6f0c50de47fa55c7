//! attack: takes tensors until there are none, and goes on
//! expect: quota
//! world: trainer
//! limits: tensors=5000
//! says: tensors
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
        let mut count = 0u64;
        loop {
            match alloc(Dtype::Float32, &[1]) {
                Ok(_) => count += 1,
                Err(e) if e.code == ErrorCode::Quota => break,
                Err(e) => return Err(e.into()),
            }
        }
        must("view", ErrorCode::Quota, compute::view(1 << 32, 0, &[1]));
        report::log(&format!("{count} tensors"));
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
