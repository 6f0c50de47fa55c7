//! What the validator refuses, and how it says so.

use terrarium_kernels::*;

struct Lab {
    d: Device,
}

impl Lab {
    fn new() -> Lab {
        Lab { d: Device::cpu(CpuConfig { threads: 1, ..CpuConfig::default() }).unwrap() }
    }
    fn f(&mut self, shape: &[u32]) -> TensorId {
        self.d.alloc(DType::F32, shape).unwrap()
    }
    fn i(&mut self, shape: &[u32]) -> TensorId {
        self.d.alloc(DType::I32, shape).unwrap()
    }
    #[track_caller]
    fn refuses(&self, op: impl Into<Op>, code: ErrorCode) {
        let op = op.into();
        match self.d.prepare(vec![op.clone()]) {
            Ok(_) => panic!("accepted {op:?}"),
            Err(error) => assert_eq!((error.code(), error.op()), (code, Some(0)), "{error}"),
        }
    }
    #[track_caller]
    fn accepts(&mut self, op: impl Into<Op>) {
        let graph = self.d.prepare(vec![op.into()]).unwrap();
        self.d.run(&graph).unwrap();
    }
}

fn kernel(inputs: Vec<Operand>, nodes: Vec<Node>, stores: Vec<Store>) -> RowMap {
    RowMap { rows: 4, cols: 6, inputs, nodes, stores }
}

fn element(tensor: TensorId) -> Operand {
    Operand { tensor, layout: Layout::Element }
}

fn to(node: u32, tensor: TensorId) -> Store {
    Store { node, tensor, layout: Layout::Element }
}

#[test]
fn overlapping_outputs() {
    let mut lab = Lab::new();
    let all = lab.f(&[32]);
    let a = lab.d.view(all, 0, &[4, 4]).unwrap();
    let b = lab.d.view(all, 15, &[4, 4]).unwrap();
    let c = lab.d.view(all, 16, &[4, 4]).unwrap();
    lab.refuses(Transpose { src: a, dst: a }, ErrorCode::Alias);
    lab.refuses(Transpose { src: a, dst: b }, ErrorCode::Alias);
    lab.accepts(Transpose { src: a, dst: c });
    let matmul = |a, b, out| {
        let (trans_a, trans_b) = (false, false);
        MatMul { a, b, out, trans_a, trans_b, alpha: 1.0, accumulate: true }
    };
    lab.accepts(matmul(a, a, c));
    lab.refuses(matmul(a, c, c), ErrorCode::Alias);
    let hyper = lab.f(&[7]);
    let (m, v) = (lab.f(&[16]), lab.f(&[16]));
    lab.accepts(AdamW { param: a, grad: c, m, v, hyper, rounded: None });
    lab.refuses(AdamW { param: a, grad: c, m, v: m, hyper, rounded: None }, ErrorCode::Alias);
    lab.refuses(AdamW { param: a, grad: b, m, v, hyper, rounded: None }, ErrorCode::Alias);
}

/// Operands that may be missing are held to their sizes, types and places.
#[test]
fn optional_operands() {
    let mut lab = Lab::new();
    let [x, out, dout, dx] = [(); 4].map(|()| lab.f(&[4, 6]));
    let [mean, inv_std] = [(); 2].map(|()| lab.f(&[4]));
    let [gain, bias, dgain, dbias] = [(); 4].map(|()| lab.f(&[6]));
    let (short, ints) = (lab.f(&[5]), lab.i(&[6]));
    let forward = |gain, bias| LayerNorm { x, gain, bias, out, mean, inv_std, eps: 1e-5 };
    lab.accepts(forward(Some(gain), Some(bias)));
    lab.accepts(forward(None, Some(bias)));
    for wrong in [short, ints] {
        lab.refuses(forward(Some(wrong), None), ErrorCode::ShapeMismatch);
        lab.refuses(forward(None, Some(wrong)), ErrorCode::ShapeMismatch);
    }
    let backward = |gain, dgain, dbias| LayerNormBackward {
        x,
        gain,
        mean,
        inv_std,
        dout,
        dx,
        dgain,
        dbias,
        accumulate: false,
    };
    lab.accepts(backward(Some(gain), Some(dgain), Some(dbias)));
    for wrong in [short, ints] {
        lab.refuses(backward(Some(wrong), None, None), ErrorCode::ShapeMismatch);
        lab.refuses(backward(None, Some(wrong), None), ErrorCode::ShapeMismatch);
        lab.refuses(backward(None, None, Some(wrong)), ErrorCode::ShapeMismatch);
    }
    lab.refuses(backward(Some(gain), Some(gain), None), ErrorCode::Alias);
    lab.refuses(backward(None, Some(dgain), Some(dgain)), ErrorCode::Alias);
    let [param, grad, m, v] = [(); 4].map(|()| lab.f(&[8]));
    let hyper = lab.f(&[7]);
    let half = |lab: &mut Lab, len| lab.d.alloc(DType::Bf16, &[len]).unwrap();
    let (fits, long) = (half(&mut lab, 8), half(&mut lab, 9));
    let adamw = |rounded| AdamW { param, grad, m, v, hyper, rounded: Some(rounded) };
    lab.accepts(adamw(fits));
    lab.refuses(adamw(long), ErrorCode::ShapeMismatch);
    lab.refuses(adamw(dgain), ErrorCode::ShapeMismatch);
}

#[test]
fn row_kernels_in_place_only_over_the_same_elements() {
    let mut lab = Lab::new();
    let all = lab.f(&[64]);
    let x = lab.d.view(all, 0, &[4, 6]).unwrap();
    let shifted = lab.d.view(all, 1, &[4, 6]).unwrap();
    let row = lab.d.view(all, 0, &[6]).unwrap();
    let nodes = || vec![Node::Input(0)];
    lab.accepts(kernel(vec![element(x)], nodes(), vec![to(0, x)]));
    lab.accepts(kernel(vec![element(x), element(x)], nodes(), vec![to(0, x)]));
    lab.refuses(kernel(vec![element(x)], nodes(), vec![to(0, shifted)]), ErrorCode::Alias);
    lab.refuses(kernel(vec![element(x)], nodes(), vec![to(0, x), to(0, x)]), ErrorCode::Alias);
    let per_col = Operand { tensor: row, layout: Layout::PerCol };
    lab.refuses(kernel(vec![element(x), per_col], nodes(), vec![to(0, x)]), ErrorCode::Alias);
}

/// Elements may be of either floating-point type, each operand on its own; what
/// is laid out otherwise may not.
#[test]
fn bfloat16_in_row_kernels() {
    let mut lab = Lab::new();
    let all = lab.d.alloc(DType::Bf16, &[64]).unwrap();
    let view = |lab: &mut Lab, at, shape: &[u32]| lab.d.view(all, at, shape).unwrap();
    let (half, shifted, other) =
        (view(&mut lab, 0, &[4, 6]), view(&mut lab, 1, &[4, 6]), view(&mut lab, 24, &[4, 6]));
    let (float, ints) = (lab.f(&[4, 6]), lab.i(&[4, 6]));
    let copy = |from, store| kernel(vec![element(from)], vec![Node::Input(0)], vec![to(0, store)]);
    for (from, store) in [(half, float), (float, half), (half, half), (half, other)] {
        lab.accepts(copy(from, store));
    }
    lab.refuses(copy(half, shifted), ErrorCode::Alias);
    lab.refuses(copy(ints, float), ErrorCode::ShapeMismatch);
    lab.refuses(copy(float, ints), ErrorCode::ShapeMismatch);
    let refused = |lab: &mut Lab, op: RowMap| {
        let error = lab.d.prepare(vec![op.into()]).expect_err("a refusal");
        assert_eq!(error.code(), ErrorCode::ShapeMismatch, "{error}");
        error.to_string()
    };
    for (layout, len) in [(Layout::PerRow, 4), (Layout::PerCol, 6), (Layout::Scalar, 1)] {
        let tensor = view(&mut lab, 32, &[len]);
        let operand = Operand { tensor, layout };
        let op = kernel(vec![element(half), operand], vec![Node::Input(0)], vec![to(0, float)]);
        let said = refused(&mut lab, op);
        let expected = format!("an input with layout {layout:?} must be F32, and is Bf16");
        assert!(said.contains(&expected), "{said}");
    }
    let nodes = vec![Node::Input(0), Node::Reduce { op: Reduction::Sum, a: 0 }];
    let per_row = Store { node: 1, tensor: view(&mut lab, 32, &[4]), layout: Layout::PerRow };
    let said = refused(&mut lab, kernel(vec![element(half)], nodes, vec![per_row]));
    assert!(said.contains("a store with layout PerRow must be F32"), "{said}");
}

#[test]
fn malformed_row_kernels() {
    use ErrorCode::InvalidArgument;
    let mut lab = Lab::new();
    let (x, y, per_row) = (lab.f(&[4, 6]), lab.f(&[4, 6]), lab.f(&[4]));
    let input = || vec![element(x)];
    let bad = |nodes: Vec<Node>| kernel(input(), nodes, vec![to(0, y)]);
    lab.refuses(bad(vec![]), InvalidArgument);
    lab.refuses(bad(vec![Node::Input(1)]), InvalidArgument);
    lab.refuses(bad(vec![Node::Unary { op: UnaryOp::Tanh, a: 0 }]), InvalidArgument);
    lab.refuses(bad(vec![Node::Unary { op: UnaryOp::Tanh, a: u32::MAX }]), InvalidArgument);
    lab.refuses(bad(vec![Node::Input(0); 257]), InvalidArgument);
    lab.accepts(bad(vec![Node::Input(0); 256]));
    lab.refuses(kernel(input(), vec![Node::Input(0)], vec![]), InvalidArgument);
    lab.refuses(kernel(input(), vec![Node::Input(0)], vec![to(0, y); 9]), InvalidArgument);
    lab.refuses(kernel(vec![element(x); 17], vec![Node::Input(0)], vec![to(0, y)]), InvalidArgument);
    lab.refuses(kernel(input(), vec![Node::Input(0)], vec![to(1, y)]), InvalidArgument);
    let rate = |layout, tensor| Store { node: 0, tensor, layout };
    let stored = |store| kernel(input(), vec![Node::Input(0)], vec![store]);
    lab.refuses(stored(rate(Layout::PerRow, per_row)), InvalidArgument);
    lab.refuses(stored(rate(Layout::PerCol, per_row)), InvalidArgument);
    lab.refuses(stored(rate(Layout::Element, per_row)), ErrorCode::ShapeMismatch);
    lab.refuses(RowMap { rows: 0, ..stored(to(0, y)) }, InvalidArgument);
    lab.refuses(RowMap { rows: u32::MAX, cols: u32::MAX, ..stored(to(0, y)) }, ErrorCode::ShapeMismatch);
    // A reduction holds whole rows: of a huge one it may not.
    let huge = RowMap {
        rows: 4,
        cols: u32::MAX,
        inputs: vec![],
        nodes: vec![Node::ColIndex, Node::Reduce { op: Reduction::Sum, a: 0 }],
        stores: vec![Store { node: 1, tensor: per_row, layout: Layout::PerRow }],
    };
    lab.refuses(huge.clone(), InvalidArgument);
    lab.accepts(RowMap { cols: 1 << 22, ..huge });
}

#[test]
fn shapes_and_types() {
    use ErrorCode::{InvalidArgument, ShapeMismatch};
    let mut lab = Lab::new();
    let (a, b, out) = (lab.f(&[3, 4]), lab.f(&[4, 5]), lab.f(&[3, 5]));
    let (line, ints) = (lab.f(&[12]), lab.i(&[3, 4]));
    let base = MatMul { a, b, out, trans_a: false, trans_b: false, alpha: 1.0, accumulate: false };
    lab.accepts(base.clone());
    lab.refuses(MatMul { trans_a: true, ..base.clone() }, ShapeMismatch);
    lab.refuses(MatMul { a: line, ..base.clone() }, ShapeMismatch);
    lab.refuses(MatMul { a: ints, ..base.clone() }, ShapeMismatch);
    lab.refuses(MatMul { out: a, a: out, ..base.clone() }, ShapeMismatch);
    lab.refuses(MatMul { alpha: f32::NAN, ..base }, InvalidArgument);
    let batch = lab.f(&[2, 3, 4]);
    lab.refuses(Transpose { src: batch, dst: a }, ShapeMismatch);
    lab.refuses(Transpose { src: line, dst: a }, ShapeMismatch);
    lab.refuses(Copy { src: line, dst: b }, ShapeMismatch);
    let columns = Columns { src: a, src_col: 1, dst: out, dst_col: 0, width: 3, accumulate: false };
    lab.accepts(columns.clone());
    lab.refuses(Columns { src_col: 2, ..columns.clone() }, InvalidArgument);
    lab.refuses(Columns { dst_col: u32::MAX, ..columns.clone() }, InvalidArgument);
    lab.refuses(Columns { width: 0, ..columns.clone() }, InvalidArgument);
    lab.refuses(Columns { src: ints, ..columns }, ShapeMismatch);
    let inv_rms = lab.f(&[3]);
    let other = lab.f(&[3, 4]);
    let norm = |eps| RmsNorm { x: a, out: other, inv_rms, eps };
    lab.accepts(norm(1e-6));
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        lab.refuses(norm(eps), InvalidArgument);
    }
    let x = lab.f(&[2, 4, 3, 3]);
    let y = lab.f(&[2, 4, 3, 3]);
    lab.refuses(Rope { x, out: y, base: 10.0, inverse: false }, ShapeMismatch);
    lab.refuses(
        Reduce { src: a, dst: line, axis: ReduceAxis::Rows, scale: 1.0, accumulate: false },
        ShapeMismatch,
    );
}

#[test]
fn attention_arguments() {
    use ErrorCode::{InvalidArgument, ShapeMismatch};
    let mut lab = Lab::new();
    let (q, out, lse) = (lab.f(&[2, 5, 4, 8]), lab.f(&[2, 5, 4, 8]), lab.f(&[2, 4, 5]));
    let (k, v, odd) = (lab.f(&[2, 5, 2, 8]), lab.f(&[2, 5, 2, 8]), lab.f(&[2, 5, 3, 8]));
    let [q, k, v] = [q, k, v].map(Heads::from);
    let base = Attention { q, k, v, kv_heads: 2, out, lse, window: 5, scale: 0.3 };
    lab.accepts(base.clone());
    lab.refuses(Attention { window: 6, ..base.clone() }, InvalidArgument);
    lab.refuses(Attention { scale: f32::INFINITY, ..base.clone() }, InvalidArgument);
    lab.refuses(Attention { k: odd.into(), v: odd.into(), ..base.clone() }, ShapeMismatch);
    lab.refuses(Attention { v: odd.into(), ..base.clone() }, ShapeMismatch);
    lab.refuses(Attention { kv_heads: 3, ..base.clone() }, ShapeMismatch);
    lab.refuses(Attention { kv_heads: 0, ..base.clone() }, ShapeMismatch);
    let flat = lab.f(&[40]);
    lab.refuses(Attention { lse: flat, ..base.clone() }, ShapeMismatch);
    // All heads of a tensor of rank 4 are meant; of others, columns that exist.
    lab.refuses(Attention { q: Heads { tensor: q.tensor, col: 1 }, ..base.clone() }, InvalidArgument);
    let (fused, short) = (lab.f(&[10, 70]), lab.f(&[2, 4, 70]));
    let at = |tensor, col| Heads { tensor, col };
    for col in [55, u32::MAX] {
        lab.refuses(Attention { v: at(fused, col), ..base.clone() }, ShapeMismatch);
    }
    lab.refuses(Attention { v: at(short, 0), ..base.clone() }, ShapeMismatch);
    lab.accepts(Attention { v: at(fused, 54), ..base });
}

#[test]
fn gradients_of_attention_in_one_tensor() {
    use ErrorCode::{Alias, ShapeMismatch};
    let mut lab = Lab::new();
    let [out, dout] = [(); 2].map(|()| lab.f(&[2, 5, 4, 8]));
    let (lse, fused, gradient) = (lab.f(&[2, 4, 5]), lab.f(&[10, 70]), lab.f(&[10, 70]));
    let [q, k, v] = [0, 32, 48].map(|col| Heads { tensor: fused, col });
    let (dq, dk, dv) = (gradient, gradient, gradient);
    let base = AttentionBackward { q, k, v, kv_heads: 2, out, lse, dout, dq, dk, dv, window: 0, scale: 0.3 };
    lab.accepts(base.clone());
    // Columns that overlap, by one or by all.
    lab.refuses(AttentionBackward { v: Heads { col: 47, ..v }, ..base.clone() }, Alias);
    lab.refuses(AttentionBackward { v: k, ..base.clone() }, Alias);
    // What is read, and another shape.
    lab.refuses(AttentionBackward { dv: fused, ..base.clone() }, Alias);
    let other = lab.f(&[10, 71]);
    lab.refuses(AttentionBackward { dv: other, ..base.clone() }, ShapeMismatch);
    // A window onto the same storage is not the same tensor.
    let long = lab.f(&[11, 70]);
    let (first, second) = (lab.d.view(long, 0, &[10, 70]).unwrap(), lab.d.view(long, 70, &[10, 70]).unwrap());
    lab.refuses(AttentionBackward { dq: first, dk: first, dv: second, ..base.clone() }, Alias);
    lab.accepts(AttentionBackward { dq: first, dk: first, dv: first, ..base.clone() });
    let whole = [(); 2].map(|()| lab.f(&[2, 5, 2, 8]));
    let [k, v] = whole.map(Heads::from);
    lab.refuses(AttentionBackward { k, v, dk: out, dv: out, ..base.clone() }, ShapeMismatch);
    let both = lab.f(&[2, 5, 2, 8]);
    lab.refuses(AttentionBackward { k, v, dk: both, dv: both, ..base }, Alias);
}

#[test]
fn bad_indices_are_clamped_and_reported() {
    let mut lab = Lab::new();
    let (table, indices, out) = (lab.f(&[3, 1]), lab.i(&[4]), lab.f(&[4, 1]));
    lab.d.upload_f32(table, 0, &[10.0, 20.0, 30.0]).unwrap();
    lab.d.upload_i32(indices, 0, &[-5, 1, 3, i32::MAX]).unwrap();
    let fill = Fill { dst: out, value: 0.0 };
    let scatter = ScatterAdd { src: out, indices, table, accumulate: false };
    let ops = vec![fill.into(), Gather { table, indices, out }.into(), scatter.into()];
    let graph = lab.d.prepare(ops).unwrap();
    let error = lab.d.run(&graph).unwrap_err();
    assert_eq!((error.code(), error.op()), (ErrorCode::IndexRange, Some(1)));
    let mut got = [0.0; 4];
    lab.d.download_f32(out, 0, &mut got).unwrap();
    assert_eq!(got, [10.0, 20.0, 30.0, 30.0]);
    // The rest of the list ran too.
    let mut got = [0.0; 3];
    lab.d.download_f32(table, 0, &mut got).unwrap();
    assert_eq!(got, [10.0, 20.0, 60.0]);
}

#[test]
fn long_lists() {
    let mut lab = Lab::new();
    let dst = lab.f(&[1]);
    let list = |count| vec![Op::Fill(Fill { dst, value: 0.0 }); count];
    assert_eq!(lab.d.prepare(list(MAX_OPS)).unwrap().ops(), MAX_OPS);
    assert_eq!(lab.d.prepare(list(MAX_OPS + 1)).unwrap_err().code(), ErrorCode::Quota);
    let x = lab.f(&[4, 6]);
    let kernel = Op::RowMap(kernel(vec![], vec![Node::Constant(1.0); 256], vec![to(0, x)]));
    let most = MAX_GRAPH_NODES / 256;
    lab.d.prepare(vec![kernel.clone(); most]).unwrap();
    let error = lab.d.prepare(vec![kernel; most + 1]).unwrap_err();
    assert_eq!((error.code(), error.op()), (ErrorCode::Quota, Some(most as u32)));
    let empty = lab.d.prepare(vec![]).unwrap();
    assert_eq!(empty.cost(), 0);
    lab.d.run(&empty).unwrap();
}

#[test]
fn errors_name_the_place() {
    let mut lab = Lab::new();
    let dst = lab.f(&[1]);
    let good = Op::Fill(Fill { dst, value: 0.0 });
    let bad = Op::Copy(Copy { src: TensorId::from_bits(7), dst });
    let error = lab.d.prepare(vec![good, bad]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "operation 1: Copy: src is 0x7, which is no live tensor; it was freed or never allocated"
    );
}
