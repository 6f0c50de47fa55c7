//! attack: indices below and above a table
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
        let table = alloc(Dtype::Float32, &[4, 2])?;
        let guard = alloc(Dtype::Float32, &[4, 2])?;
        let out = alloc(Dtype::Float32, &[6, 2])?;
        let indices = alloc(Dtype::Int32, &[6])?;
        compute::upload_ints(indices, 0, &[-1, 4, i32::MAX, i32::MIN, 1 << 30, 0])?;
        let gather = Op::Gather(compute::Gather { table, indices, out });
        must("gather", ErrorCode::IndexRange, submit(&[gather]));
        let scatter = compute::ScatterAdd { src: out, indices, table, accumulate: true };
        must("scatter", ErrorCode::IndexRange, submit(&[Op::ScatterAdd(scatter)]));
        if compute::download_floats(guard, 0, 8)?.iter().any(|x| *x != 0.0) {
            report::log("(it wrote elsewhere");
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
