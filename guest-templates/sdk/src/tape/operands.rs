//! Which fields of an operation name tensors.

use crate::bindings::trainer::terrarium::guest::compute::Op;

/// Calls `visit` with each tensor of `op`.
pub(super) fn for_each(op: &mut Op, visit: &mut dyn FnMut(&mut u64)) {
    let visit = std::cell::RefCell::new(visit);
    let all = |fields: &mut [&mut u64]| fields.iter_mut().for_each(|f| (visit.borrow_mut())(f));
    // Those that may be missing.
    let some = |fields: &mut [&mut Option<u64>]| {
        fields.iter_mut().filter_map(|f| f.as_mut()).for_each(|f| all(&mut [f]));
    };
    match op {
        Op::Fill(o) => all(&mut [&mut o.dst]),
        Op::Random(o) => all(&mut [&mut o.dst]),
        Op::Copy(o) => all(&mut [&mut o.src, &mut o.dst]),
        Op::Columns(o) => all(&mut [&mut o.src, &mut o.dst]),
        Op::Transpose(o) => all(&mut [&mut o.src, &mut o.dst]),
        Op::Matmul(o) => all(&mut [&mut o.a, &mut o.b, &mut o.out]),
        Op::RandomStep(o) => all(&mut [&mut o.dst, &mut o.counter]),
        Op::MatmulFused(o) => {
            all(&mut [&mut o.a, &mut o.b, &mut o.out]);
            some(&mut [&mut o.bias, &mut o.residual, &mut o.pre]);
        }
        Op::GroupedMatmul(o) => all(&mut [&mut o.a, &mut o.b, &mut o.starts, &mut o.out]),
        Op::GroupedMatmulWeight(o) => all(&mut [&mut o.a, &mut o.b, &mut o.starts, &mut o.out]),
        Op::TopK(o) => all(&mut [&mut o.x, &mut o.values, &mut o.indices]),
        Op::TopKBackward(o) => all(&mut [&mut o.dvalues, &mut o.indices, &mut o.dx]),
        Op::SortByKey(o) => all(&mut [&mut o.keys, &mut o.sources, &mut o.places, &mut o.starts]),
        Op::LayerNorm(o) => {
            all(&mut [&mut o.x, &mut o.out, &mut o.mean, &mut o.inv_std]);
            some(&mut [&mut o.gain, &mut o.bias]);
        }
        Op::LayerNormBackward(o) => {
            all(&mut [&mut o.x, &mut o.mean, &mut o.inv_std, &mut o.dout, &mut o.dx]);
            some(&mut [&mut o.gain, &mut o.dgain, &mut o.dbias]);
        }
        Op::RopeNorm(o) => all(&mut [&mut o.x, &mut o.out, &mut o.inv_rms]),
        Op::RopeNormBackward(o) => all(&mut [&mut o.out, &mut o.inv_rms, &mut o.dout, &mut o.dx]),
        Op::RowMap(o) => {
            o.inputs.iter_mut().for_each(|i| all(&mut [&mut i.tensor]));
            o.stores.iter_mut().for_each(|s| all(&mut [&mut s.tensor]));
        }
        Op::Reduce(o) => all(&mut [&mut o.src, &mut o.dst]),
        Op::RmsNorm(o) => all(&mut [&mut o.x, &mut o.out, &mut o.inv_rms]),
        Op::RmsNormBackward(o) => all(&mut [&mut o.x, &mut o.inv_rms, &mut o.dout, &mut o.dx]),
        Op::Rope(o) => all(&mut [&mut o.x, &mut o.out]),
        Op::Attention(o) => {
            all(&mut [&mut o.q.tensor, &mut o.k.tensor, &mut o.v.tensor, &mut o.out, &mut o.lse]);
        }
        Op::AttentionBackward(o) => {
            all(&mut [&mut o.q.tensor, &mut o.k.tensor, &mut o.v.tensor, &mut o.out, &mut o.lse]);
            all(&mut [&mut o.dout, &mut o.dq, &mut o.dk, &mut o.dv]);
        }
        Op::Gather(o) => all(&mut [&mut o.table, &mut o.indices, &mut o.out]),
        Op::ScatterAdd(o) => all(&mut [&mut o.src, &mut o.indices, &mut o.table]),
        Op::LinearCrossEntropy(o) => {
            all(&mut [&mut o.x, &mut o.weight, &mut o.targets, &mut o.losses, &mut o.lse]);
        }
        Op::LinearCrossEntropyBackward(o) => {
            all(&mut [&mut o.x, &mut o.weight, &mut o.targets, &mut o.lse]);
            all(&mut [&mut o.dx, &mut o.dweight]);
        }
        Op::Adamw(o) => {
            all(&mut [&mut o.param, &mut o.grad, &mut o.m, &mut o.v, &mut o.hyper]);
            some(&mut [&mut o.rounded]);
        }
    }
}
