//! attack: lists of more operations and nodes than there may be
//! expect: finished
//! world: trainer
//! limits: memory_bytes=67108864
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
        let a = alloc(Dtype::Float32, &[8])?;
        let endless: Vec<Op> = (0..70_000).map(|_| fill(a)).collect();
        must("list", ErrorCode::Quota, submit(&endless));
        let map = |rows, cols, nodes: Vec<compute::Node>, node| {
            let store = compute::Store { node, tensor: a, layout: compute::Layout::Element };
            Op::RowMap(compute::RowMap { rows, cols, inputs: vec![], nodes, stores: vec![store] })
        };
        let long = vec![compute::Node::ColIndex; 256];
        let kernels: Vec<Op> = (0..1100).map(|_| map(1, 8, long.clone(), 0)).collect();
        must("nodes", ErrorCode::Quota, submit(&kernels));
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
