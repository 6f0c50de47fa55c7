//! attack: row kernels whose nodes name themselves, later ones, and inputs that are not there
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
        let unary = |a| compute::Node::Unary(compute::UnaryNode { op: compute::UnaryOp::Negate, a });
        for nodes in [vec![unary(0)], vec![unary(1), unary(0)], vec![unary(u32::MAX)], vec![compute::Node::Input(0)], vec![compute::Node::Input(u32::MAX)]] {
            must("nodes", ErrorCode::InvalidArgument, submit(&[map(1, 8, nodes, 0)]));
        }
        must("store", ErrorCode::InvalidArgument, submit(&[map(1, 8, vec![compute::Node::ColIndex], 7)]));
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
