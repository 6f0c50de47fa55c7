//! attack: row kernels over no rows, and over more than there are
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
        let ones = || vec![compute::Node::Constant(1.0)];
        must("rows", ErrorCode::InvalidArgument, submit(&[map(0, 8, ones(), 0)]));
        must("cols", ErrorCode::InvalidArgument, submit(&[map(8, 0, ones(), 0)]));
        for (rows, cols) in [(u32::MAX, u32::MAX), (2, 8), (1, 9), (1 << 31, 1 << 31), (65536, 65536)] {
            must("size", ErrorCode::ShapeMismatch, submit(&[map(rows, cols, ones(), 0)]));
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
