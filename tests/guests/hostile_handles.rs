//! Every handle, shape and range that it should not use. Each must be refused
//! with a code; what is not refused, or refused with another code, is logged.

use terrarium_sdk::bindings::trainer::terrarium::guest::compute::{
    self, Dtype, Error as HostError, ErrorCode, Op, alloc, download_floats, free, free_graph, record_graph, replay, shape,
    submit, upload_floats, upload_ints, view,
};
use terrarium_sdk::{Result, Tensor, Trainer, export_trainer, report};

struct Guest;

fn expect<T>(what: &str, code: ErrorCode, result: std::result::Result<T, HostError>) {
    match result {
        Err(e) if e.code == code => report::metric("refused", 0, 1.0),
        Err(e) => report::log(&format!("{what}: {:?} ({})", e.code, e.detail)),
        Ok(_) => report::log(&format!("{what}: accepted")),
    }
}

fn copy(src: u64, dst: u64) -> Op {
    Op::Copy(compute::CopyCast { src, dst })
}

fn fill(dst: u64) -> Op {
    Op::Fill(compute::Fill { dst, value: 1.0 })
}

impl Trainer for Guest {
    fn init(_seed: u64) -> Result<Self> {
        use ErrorCode::{Alias, BadHandle, InvalidArgument, OutOfMemory, Quota, ShapeMismatch};
        let a = alloc(Dtype::Float32, &[8, 8])?;
        let ints = alloc(Dtype::Int32, &[8])?;

        for forged in [0, 1, u64::MAX, a + 1000, a ^ (1 << 32), a + (1 << 32), a | (1 << 63), u64::from(u32::MAX)] {
            expect("a forged handle", BadHandle, shape(forged));
            expect("a forged handle in a list", BadHandle, submit(&[fill(forged)]));
            expect("a forged source", BadHandle, submit(&[copy(forged, a)]));
            expect("a forged upload", BadHandle, upload_floats(forged, 0, &[1.0]));
            expect("a forged free", BadHandle, free(forged));
        }
        let old = alloc(Dtype::Float32, &[8, 8])?;
        let graph = record_graph(&[fill(old)])?;
        free(old)?;
        expect("freed twice", BadHandle, free(old));
        // The slot is taken again: the old handle must not name the new tensor.
        let new = alloc(Dtype::Float32, &[8, 8])?;
        expect("freed and reused", BadHandle, submit(&[fill(old)]));
        expect("a graph of a freed tensor", BadHandle, replay(graph));
        for _ in 0..3000 {
            let tensor = alloc(Dtype::Float32, &[1])?;
            free(tensor)?;
            expect("a generation ago", BadHandle, shape(tensor));
        }
        expect("a forged graph", BadHandle, replay(graph + 1));
        free_graph(graph)?;
        expect("a freed graph", BadHandle, replay(graph));

        let huge: [&[u32]; 4] = [&[u32::MAX], &[1 << 31, 2], &[65536, 65536], &[u32::MAX, u32::MAX]];
        for shape in huge {
            expect("a huge shape", OutOfMemory, alloc(Dtype::Float32, shape));
        }
        let wrong: [&[u32]; 5] = [&[], &[0], &[4, 0], &[1; 5], &[u32::MAX; 4]];
        for shape in wrong {
            expect("a wrong shape", InvalidArgument, alloc(Dtype::Int32, shape));
        }
        for (offset, shape) in [(64, 1), (63, 2), (u64::MAX, 1), (u64::MAX - 1, 4), (1 << 62, 1 << 31), (0, 65)] {
            expect("a view outside", InvalidArgument, view(a, offset, &[shape]));
        }
        expect("a view of nothing", InvalidArgument, view(a, 0, &[0]));
        expect("a view of a view", InvalidArgument, view(view(a, 32, &[32])?, 1, &[32]));
        for offset in [64, 63, u64::MAX, u64::MAX - 3, 1 << 62] {
            expect("an upload outside", InvalidArgument, upload_floats(a, offset, &[1.0, 2.0]));
            expect("a download outside", InvalidArgument, download_floats(a, offset, 2));
        }
        expect("a download of too much", InvalidArgument, download_floats(a, 0, 65));
        expect("integers into floats", ShapeMismatch, upload_ints(a, 0, &[1]));
        expect("floats from integers", ShapeMismatch, download_floats(ints, 0, 1));

        let (left, right) = (view(a, 0, &[40])?, view(a, 24, &[40])?);
        expect("an overlapping copy", Alias, submit(&[copy(left, right)]));
        expect("a copy onto itself", Alias, submit(&[copy(a, a)]));
        let matmul = |a, b, out| {
            Op::Matmul(compute::Matmul { a, b, out, trans_a: false, trans_b: false, alpha: 1.0, accumulate: false })
        };
        expect("a product into its factor", Alias, submit(&[matmul(a, new, a)]));
        expect("a product of wrong shapes", ShapeMismatch, submit(&[matmul(a, ints, new)]));
        // The first operations of a refused list are not run.
        expect("a list with a bad end", BadHandle, submit(&[fill(new), fill(old)]));
        if download_floats(new, 0, 1)? != [0.0] {
            report::log("a refused list was run in part");
        }
        let endless: Vec<Op> = (0..70_000).map(|_| fill(new)).collect();
        expect("too long a list", Quota, submit(&endless));
        let nodes = vec![compute::Node::Unary(compute::UnaryNode { op: compute::UnaryOp::Negate, a: 9 })];
        let map = compute::RowMap { rows: 8, cols: 8, inputs: vec![], nodes, stores: vec![] };
        expect("a node that names a later one", InvalidArgument, submit(&[Op::RowMap(map)]));
        report::metric("done", 0, 1.0);
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
