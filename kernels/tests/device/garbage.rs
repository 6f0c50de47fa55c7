//! Operations with arbitrary arguments: every one is run or refused, and
//! nothing panics.

use std::collections::BTreeMap;

use proptest::prelude::*;
use terrarium_kernels::*;

use crate::bench::Bench;

/// Draws arguments: mostly such that an operation has a chance, sometimes
/// anything.
struct Monkey {
    bench: Bench,
    floats: Vec<Vec<TensorId>>,
    ints: Vec<TensorId>,
    halves: Vec<TensorId>,
    one: TensorId,
    three: TensorId,
    gone: TensorId,
    /// Which family of shapes the operation at hand prefers.
    theme: usize,
}

const SHAPES: [&[u32]; 10] =
    [&[4, 4], &[4], &[1, 4, 2, 4], &[1, 2, 4], &[7], &[1], &[3, 4], &[2, 2, 4], &[2, 4, 4], &[1, 4, 2, 2]];

impl Monkey {
    fn new(seed: u64, device: &mut Device) -> Monkey {
        let mut floats = Vec::new();
        for shape in SHAPES {
            let mut same: Vec<TensorId> = (0..9).map(|_| device.alloc(DType::F32, shape).unwrap()).collect();
            let all = device.alloc(DType::F32, &[64]).unwrap();
            same.extend((0..2).map(|i| device.view(all, i, shape).unwrap()));
            floats.push(same);
        }
        let ints = (0..3).map(|_| device.alloc(DType::I32, &[4]).unwrap()).collect();
        let halves = (0..3).map(|_| device.alloc(DType::Bf16, SHAPES[0]).unwrap()).collect();
        let gone = device.alloc(DType::F32, &[4]).unwrap();
        device.free(gone).unwrap();
        let one = device.alloc(DType::I32, &[1]).unwrap();
        let three = device.alloc(DType::I32, &[3]).unwrap();
        Monkey { bench: Bench::new(seed), floats, ints, halves, one, three, gone, theme: 0 }
    }
    fn pick(&mut self, bound: usize) -> usize {
        self.bench.index(bound) as usize
    }
    fn of(&mut self, shape: usize) -> TensorId {
        let shape = match self.pick(40) {
            0 => return self.gone,
            1 => return TensorId::from_bits(self.word()),
            2 => return self.int(),
            3 => self.pick(SHAPES.len()),
            _ => shape,
        };
        let place = self.pick(self.floats[shape].len());
        self.floats[shape][place]
    }
    fn maybe(&mut self, shape: usize) -> Option<TensorId> {
        self.flag().then(|| self.of(shape))
    }
    /// Four by four, often bfloat16.
    fn number(&mut self) -> TensorId {
        let place = self.pick(3);
        if self.flag() { self.halves[place] } else { self.of(0) }
    }
    fn float(&mut self) -> TensorId {
        self.of(self.theme)
    }
    fn int(&mut self) -> TensorId {
        let place = self.pick(self.ints.len());
        self.ints[place]
    }
    /// One integer, and so no vector of four.
    fn one_int(&mut self) -> TensorId {
        if self.pick(3) > 0 { self.one } else { self.float() }
    }
    fn three_ints(&mut self) -> TensorId {
        if self.pick(8) > 0 { self.three } else { self.int() }
    }
    fn word(&mut self) -> u64 {
        (self.bench.draw().to_bits() as u64) << self.pick(40)
    }
    fn small(&mut self) -> u32 {
        if self.pick(20) == 0 { self.word() as u32 } else { self.pick(6) as u32 }
    }
    /// Of keys: mostly what the theme's shapes have.
    fn kv_heads(&mut self) -> u32 {
        if self.pick(8) == 0 {
            return self.small();
        }
        if self.theme == 9 { 1 } else { 2 }
    }
    /// In theme 9, whose heads are narrow, columns of a tensor.
    fn heads(&mut self) -> Heads {
        if self.theme != 9 {
            return self.float().into();
        }
        let col = if self.pick(8) == 0 { self.small() } else { 2 * self.pick(2) as u32 };
        Heads { tensor: self.of(0), col }
    }
    fn value(&mut self) -> f32 {
        match self.pick(16) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => -1.0,
            3 => 0.0,
            4 => f32::from_bits(self.word() as u32),
            _ => self.bench.draw().abs() + 0.1,
        }
    }
    fn flag(&mut self) -> bool {
        self.pick(2) == 0
    }
    fn layout(&mut self) -> Layout {
        [Layout::Element, Layout::PerRow, Layout::PerCol, Layout::Scalar][self.pick(4)]
    }
    fn laid_out(&mut self, layout: Layout) -> TensorId {
        match layout {
            Layout::Element => self.number(),
            Layout::PerRow | Layout::PerCol => self.of(1),
            Layout::Scalar => self.of(5),
        }
    }
    fn node(&mut self, before: u32) -> Node {
        let unary = [UnaryOp::Exponential, UnaryOp::Sine, UnaryOp::Logarithm, UnaryOp::Floor];
        let binary = [BinaryOp::Power, BinaryOp::Divide, BinaryOp::Minimum, BinaryOp::LessThan];
        let mut earlier = || {
            if self.pick(60) == 0 { self.small() } else { self.pick(before.max(1) as usize) as u32 }
        };
        let (a, b, c) = (earlier(), earlier(), earlier());
        match self.pick(8) {
            0 | 1 => Node::Input(a),
            2 => Node::Constant(self.value()),
            3 => Node::Unary { op: unary[self.pick(4)], a },
            4 => Node::Binary { op: binary[self.pick(4)], a, b },
            5 => Node::Select { condition: a, then: b, otherwise: c },
            6 => Node::Reduce { op: [Reduction::Sum, Reduction::Maximum][self.pick(2)], a },
            _ => Node::ColIndex,
        }
    }
    fn row_map(&mut self) -> Op {
        let mut inputs = Vec::new();
        for _ in 0..self.pick(5) + 1 {
            let layout = self.layout();
            inputs.push(Operand { tensor: self.laid_out(layout), layout });
        }
        let mut nodes = vec![Node::Input(0)];
        for _ in 0..self.pick(8) {
            let node = self.node(nodes.len() as u32);
            nodes.push(match node {
                Node::Input(k) if self.pick(20) > 0 => Node::Input(k % inputs.len() as u32),
                node => node,
            });
        }
        let mut stores = Vec::new();
        for _ in 0..self.pick(3) + 1 {
            let layout = if self.flag() { Layout::Element } else { self.layout() };
            let (node, tensor) = (self.pick(nodes.len()) as u32, self.laid_out(layout));
            stores.push(Store { node, tensor, layout });
        }
        let (rows, cols) = if self.pick(9) == 0 { (self.small(), self.small()) } else { (4, 4) };
        RowMap { rows, cols, inputs, nodes, stores }.into()
    }
    fn op(&mut self) -> Op {
        self.theme = self.pick(SHAPES.len());
        match self.pick(29) {
            0 => Fill { dst: self.float(), value: self.value() }.into(),
            1 => {
                let distribution = [Distribution::Normal, Distribution::Uniform][self.pick(2)];
                let (seed, stream) = (self.word(), self.word());
                let (dst, scale) = (self.float(), self.value());
                Random { dst, seed, stream, distribution, scale }.into()
            }
            2 => Copy { src: self.float(), dst: self.float() }.into(),
            3 => {
                let (src, src_col) = (self.float(), self.small());
                let (dst, dst_col) = (self.float(), self.small());
                let (width, accumulate) = (self.small(), self.flag());
                Columns { src, src_col, dst, dst_col, width, accumulate }.into()
            }
            4 => Transpose { src: self.float(), dst: self.float() }.into(),
            5 => {
                let (a, b, out) = (self.float(), self.float(), self.float());
                let (trans_a, trans_b) = (self.flag(), self.flag());
                let (alpha, accumulate) = (self.value(), self.flag());
                MatMul { a, b, out, trans_a, trans_b, alpha, accumulate }.into()
            }
            6 => self.row_map(),
            7 => {
                let axis = [ReduceAxis::Rows, ReduceAxis::Cols, ReduceAxis::All][self.pick(3)];
                let shape = [1, 5][self.pick(2)];
                let (src, dst) = (self.float(), self.of(shape));
                let (scale, accumulate) = (self.value(), self.flag());
                Reduce { src, dst, axis, scale, accumulate }.into()
            }
            8 => {
                self.theme = 0;
                let (x, out, inv_rms) = (self.float(), self.float(), self.of(1));
                RmsNorm { x, out, inv_rms, eps: self.value() }.into()
            }
            9 => {
                self.theme = 0;
                let (x, inv_rms) = (self.float(), self.of(1));
                let (dout, dx, accumulate) = (self.float(), self.float(), self.flag());
                RmsNormBackward { x, inv_rms, dout, dx, accumulate }.into()
            }
            10 => {
                let (x, out) = (self.of(2), self.of(2));
                Rope { x, out, base: self.value(), inverse: self.flag() }.into()
            }
            11 => {
                self.theme = if self.flag() { 9 } else { 2 };
                let (q, k, v) = (self.heads(), self.heads(), self.heads());
                let (out, lse, kv_heads) = (self.float(), self.of(3), self.kv_heads());
                let (window, scale) = (self.small(), self.value());
                Attention { q, k, v, kv_heads, out, lse, window, scale }.into()
            }
            12 => {
                self.theme = if self.flag() { 9 } else { 2 };
                let (q, k, v) = (self.heads(), self.heads(), self.heads());
                let (out, lse, dout) = (self.float(), self.of(3), self.float());
                let wide = if self.theme == 9 { 0 } else { 2 };
                let (dq, dk, dv) = (self.of(wide), self.of(wide), self.of(wide));
                let (kv_heads, window, scale) = (self.kv_heads(), self.small(), self.value());
                AttentionBackward { q, k, v, kv_heads, out, lse, dout, dq, dk, dv, window, scale }.into()
            }
            13 => Gather { table: self.of(6), indices: self.int(), out: self.of(0) }.into(),
            14 => {
                let (src, indices, table) = (self.of(0), self.int(), self.of(6));
                ScatterAdd { src, indices, table, accumulate: self.flag() }.into()
            }
            15 => {
                let (x, weight, targets) = (self.of(0), self.of(6), self.int());
                let (losses, lse, softcap) = (self.of(1), self.of(1), self.value());
                LinearCrossEntropy { x, weight, targets, losses, lse, softcap }.into()
            }
            16 => {
                let (x, weight, targets, lse) = (self.of(0), self.of(6), self.int(), self.of(1));
                let (dx, dweight, softcap) = (self.of(0), self.of(6), self.value());
                let (grad_scale, accumulate) = (self.value(), self.flag());
                LinearCrossEntropyBackward {
                    x,
                    weight,
                    targets,
                    lse,
                    dx,
                    dweight,
                    softcap,
                    grad_scale,
                    accumulate,
                }
                .into()
            }
            17 => {
                let distribution = [Distribution::Normal, Distribution::Uniform][self.pick(2)];
                let (dst, scale, counter) = (self.float(), self.value(), self.one_int());
                let (seed, stream) = (self.word(), self.word());
                RandomStep { dst, seed, stream, counter, distribution, scale }.into()
            }
            18 => {
                let (a, b, out) = (self.float(), self.float(), self.float());
                let theme = self.theme;
                let (bias, residual, pre) = (self.maybe(1), self.maybe(theme), self.maybe(theme));
                let activation = [Activation::Gelu, Activation::Relu][self.pick(2)];
                let (backward, alpha) = (self.flag(), self.value());
                let (trans_a, trans_b) = (self.flag(), self.flag());
                let fused = MatMulFused {
                    a,
                    b,
                    out,
                    trans_a,
                    trans_b,
                    alpha,
                    bias,
                    residual,
                    pre,
                    activation,
                    backward,
                };
                fused.into()
            }
            19 => {
                let (a, b, out, starts) = (self.of(0), self.of(8), self.of(0), self.three_ints());
                GroupedMatMul { a, b, starts, out, trans_b: self.flag(), accumulate: self.flag() }.into()
            }
            20 => {
                let (a, b, out, starts) = (self.of(0), self.of(0), self.of(8), self.three_ints());
                GroupedMatMulWeight { a, b, starts, out, accumulate: self.flag() }.into()
            }
            21 => {
                let (x, values, indices) = (self.of(1), self.of(1), self.int());
                TopK { x, values, indices }.into()
            }
            22 => {
                let (dvalues, indices, dx) = (self.of(1), self.int(), self.of(1));
                TopKBackward { dvalues, indices, dx, accumulate: self.flag() }.into()
            }
            23 => {
                let (keys, sources, places, starts) = (self.int(), self.int(), self.int(), self.three_ints());
                SortByKey { keys, sources, places, starts, per_source: self.small() }.into()
            }
            24 => {
                let (x, out, mean, inv_std) = (self.of(0), self.number(), self.of(1), self.of(1));
                let (gain, bias, eps) = (self.maybe(1), self.maybe(1), self.value());
                LayerNorm { x, gain, bias, out, mean, inv_std, eps }.into()
            }
            25 => {
                let (x, mean, inv_std) = (self.of(0), self.of(1), self.of(1));
                let (dout, dx, accumulate) = (self.number(), self.of(0), self.flag());
                let (gain, dgain, dbias) = (self.maybe(1), self.maybe(1), self.maybe(1));
                LayerNormBackward { x, gain, mean, inv_std, dout, dx, dgain, dbias, accumulate }.into()
            }
            26 => {
                let (x, out, inv_rms, x_col) = (self.of(0), self.of(9), self.of(3), self.small());
                let (base, eps) = (self.value(), self.value());
                RopeNorm { x, x_col, out, inv_rms, base, eps }.into()
            }
            27 => {
                let (out, inv_rms, dout, dx) = (self.of(9), self.of(3), self.of(9), self.of(0));
                let (dx_col, base, accumulate) = (self.small(), self.value(), self.flag());
                RopeNormBackward { out, inv_rms, dout, dx, dx_col, base, accumulate }.into()
            }
            _ => {
                let (param, grad) = (self.float(), self.float());
                let (m, v, hyper) = (self.float(), self.float(), self.of(4));
                let rounded = self.flag().then(|| self.number());
                AdamW { param, grad, m, v, hyper, rounded }.into()
            }
        }
    }
}

fn rampage(seed: u64, count: usize) -> BTreeMap<&'static str, [u32; 2]> {
    let mut device = Bench::device();
    let mut monkey = Monkey::new(seed, &mut device);
    let places: Vec<i32> = (0..4).map(|_| (monkey.small() as i32).wrapping_sub(2)).collect();
    device.upload_i32(monkey.ints[0], 0, &places).unwrap();
    let mut seen: BTreeMap<&'static str, [u32; 2]> = BTreeMap::new();
    for _ in 0..count {
        let op = monkey.op();
        let name = op.name();
        let tally = seen.entry(name).or_default();
        match device.prepare(vec![op]) {
            Err(error) => {
                assert_eq!(error.op(), Some(0));
                tally[1] += 1;
            }
            Ok(graph) => {
                tally[0] += 1;
                if let Err(error) = device.run(&graph) {
                    assert_eq!(error.code(), ErrorCode::IndexRange, "{error}");
                }
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::bench::cases(50)))]

    #[test]
    fn nothing_panics(seed: u64) {
        // The simulator is slow.
        rampage(seed, if Bench::on_cuda() { 100 } else { 400 });
    }
}

/// The monkey is worth something: it gets every operation both accepted and
/// refused.
#[test]
fn the_garbage_reaches_every_operation() {
    for (name, [accepted, refused]) in rampage(1, 35_000) {
        assert!(accepted > 20 && refused > 20, "{name}: {accepted} accepted, {refused} refused");
    }
}
