//! attack: row kernels of too many nodes, inputs and stores
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
        let a = alloc(Dtype::Float32, &[8])?;
        let map = |rows, cols, nodes: Vec<compute::Node>, node| {
            let store = compute::Store { node, tensor: a, layout: compute::Layout::Element };
            Op::RowMap(compute::RowMap { rows, cols, inputs: vec![], nodes, stores: vec![store] })
        };
        must("nodes", ErrorCode::InvalidArgument, submit(&[map(1, 8, vec![compute::Node::Constant(1.0); 257], 0)]));
        let operand = compute::Operand { tensor: a, layout: compute::Layout::Element };
        let store = compute::Store { node: 0, tensor: a, layout: compute::Layout::Element };
        let many = |inputs, stores| {
            Op::RowMap(compute::RowMap { rows: 1, cols: 8, inputs, nodes: vec![compute::Node::Constant(1.0)], stores })
        };
        must("inputs", ErrorCode::InvalidArgument, submit(&[many(vec![operand; 1000], vec![store])]));
        must("stores", ErrorCode::InvalidArgument, submit(&[many(vec![], vec![store; 1000])]));
        must("nothing", ErrorCode::InvalidArgument, submit(&[many(vec![], vec![])]));
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
