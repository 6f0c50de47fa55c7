//! attack: records the largest row kernels as often as it may, to fill the memory of the host
//! expect: finished
//! world: trainer
//! score: 8
//! limits: memory_bytes=67108864
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
        let a = alloc(Dtype::Float32, &[1])?;
        let mut nodes = vec![compute::Node::ColIndex];
        while nodes.len() < 256 {
            let last = nodes.len() as u32 - 1;
            let unary = compute::UnaryNode { op: compute::UnaryOp::Sine, a: last };
            nodes.push(compute::Node::Unary(unary));
        }
        let store = compute::Store { node: 255, tensor: a, layout: compute::Layout::Element };
        let map = compute::RowMap { rows: 1, cols: 1, inputs: vec![], nodes, stores: vec![store] };
        let ops = vec![Op::RowMap(map); 900];
        while compute::record_graph(&ops).is_ok() {}
        must("one more", ErrorCode::Quota, compute::record_graph(&ops));
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
