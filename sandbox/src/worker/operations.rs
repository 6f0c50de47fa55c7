//! The device's request for a guest's request, field by field. Only names
//! change: nothing is checked here, so that the validator of the device is the
//! one that decides.

use super::state::wit;
use terrarium_kernels as kernels;
use terrarium_kernels::TensorId;

const fn t(bits: u64) -> TensorId {
    TensorId::from_bits(bits)
}

const fn heads(heads: wit::Heads) -> kernels::Heads {
    kernels::Heads { tensor: t(heads.tensor), col: heads.col }
}

/// One operation.
pub(super) fn op(op: wit::Op) -> kernels::Op {
    use wit::Op as G;
    match op {
        G::Fill(o) => kernels::Fill { dst: t(o.dst), value: o.value }.into(),
        G::Random(o) => kernels::Random {
            dst: t(o.dst),
            seed: o.seed,
            stream: o.stream,
            distribution: distribution(o.distribution),
            scale: o.scale,
        }
        .into(),
        G::RandomStep(o) => kernels::RandomStep {
            dst: t(o.dst),
            seed: o.seed,
            stream: o.stream,
            counter: t(o.counter),
            distribution: distribution(o.distribution),
            scale: o.scale,
        }
        .into(),
        G::Copy(o) => kernels::Copy { src: t(o.src), dst: t(o.dst) }.into(),
        G::Columns(o) => kernels::Columns {
            src: t(o.src),
            src_col: o.src_col,
            dst: t(o.dst),
            dst_col: o.dst_col,
            width: o.width,
            accumulate: o.accumulate,
        }
        .into(),
        G::Transpose(o) => kernels::Transpose { src: t(o.src), dst: t(o.dst) }.into(),
        G::Matmul(o) => kernels::MatMul {
            a: t(o.a),
            b: t(o.b),
            out: t(o.out),
            trans_a: o.trans_a,
            trans_b: o.trans_b,
            alpha: o.alpha,
            accumulate: o.accumulate,
        }
        .into(),
        G::MatmulFused(o) => kernels::MatMulFused {
            a: t(o.a),
            b: t(o.b),
            out: t(o.out),
            trans_a: o.trans_a,
            trans_b: o.trans_b,
            alpha: o.alpha,
            bias: o.bias.map(t),
            residual: o.residual.map(t),
            pre: o.pre.map(t),
            activation: match o.activation {
                wit::Activation::Identity => kernels::Activation::Identity,
                wit::Activation::Relu => kernels::Activation::Relu,
                wit::Activation::ReluSquared => kernels::Activation::ReluSquared,
                wit::Activation::Gelu => kernels::Activation::Gelu,
                wit::Activation::Silu => kernels::Activation::Silu,
            },
            backward: o.backward,
        }
        .into(),
        G::GroupedMatmul(o) => kernels::GroupedMatMul {
            a: t(o.a),
            b: t(o.b),
            starts: t(o.starts),
            out: t(o.out),
            trans_b: o.trans_b,
            accumulate: o.accumulate,
        }
        .into(),
        G::GroupedMatmulWeight(o) => kernels::GroupedMatMulWeight {
            a: t(o.a),
            b: t(o.b),
            starts: t(o.starts),
            out: t(o.out),
            accumulate: o.accumulate,
        }
        .into(),
        G::TopK(o) => kernels::TopK { x: t(o.x), values: t(o.values), indices: t(o.indices) }.into(),
        G::TopKBackward(o) => kernels::TopKBackward {
            dvalues: t(o.dvalues),
            indices: t(o.indices),
            dx: t(o.dx),
            accumulate: o.accumulate,
        }
        .into(),
        G::SortByKey(o) => kernels::SortByKey {
            keys: t(o.keys),
            sources: t(o.sources),
            places: t(o.places),
            starts: t(o.starts),
            per_source: o.per_source,
        }
        .into(),
        G::LayerNorm(o) => kernels::LayerNorm {
            x: t(o.x),
            gain: o.gain.map(t),
            bias: o.bias.map(t),
            out: t(o.out),
            mean: t(o.mean),
            inv_std: t(o.inv_std),
            eps: o.eps,
        }
        .into(),
        G::LayerNormBackward(o) => kernels::LayerNormBackward {
            x: t(o.x),
            gain: o.gain.map(t),
            mean: t(o.mean),
            inv_std: t(o.inv_std),
            dout: t(o.dout),
            dx: t(o.dx),
            dgain: o.dgain.map(t),
            dbias: o.dbias.map(t),
            accumulate: o.accumulate,
        }
        .into(),
        G::RopeNorm(o) => kernels::RopeNorm {
            x: t(o.x),
            x_col: o.x_col,
            out: t(o.out),
            inv_rms: t(o.inv_rms),
            base: o.base,
            eps: o.eps,
        }
        .into(),
        G::RopeNormBackward(o) => kernels::RopeNormBackward {
            out: t(o.out),
            inv_rms: t(o.inv_rms),
            dout: t(o.dout),
            dx: t(o.dx),
            dx_col: o.dx_col,
            base: o.base,
            accumulate: o.accumulate,
        }
        .into(),
        G::RowMap(o) => kernels::RowMap {
            rows: o.rows,
            cols: o.cols,
            inputs: o
                .inputs
                .into_iter()
                .map(|i| kernels::Operand { tensor: t(i.tensor), layout: layout(i.layout) })
                .collect(),
            nodes: o.nodes.into_iter().map(node).collect(),
            stores: o
                .stores
                .into_iter()
                .map(|s| kernels::Store { node: s.node, tensor: t(s.tensor), layout: layout(s.layout) })
                .collect(),
        }
        .into(),
        G::Reduce(o) => kernels::Reduce {
            src: t(o.src),
            dst: t(o.dst),
            axis: match o.axis {
                wit::ReduceAxis::Rows => kernels::ReduceAxis::Rows,
                wit::ReduceAxis::Cols => kernels::ReduceAxis::Cols,
                wit::ReduceAxis::All => kernels::ReduceAxis::All,
            },
            scale: o.scale,
            accumulate: o.accumulate,
        }
        .into(),
        G::RmsNorm(o) => {
            kernels::RmsNorm { x: t(o.x), out: t(o.out), inv_rms: t(o.inv_rms), eps: o.eps }.into()
        }
        G::RmsNormBackward(o) => kernels::RmsNormBackward {
            x: t(o.x),
            inv_rms: t(o.inv_rms),
            dout: t(o.dout),
            dx: t(o.dx),
            accumulate: o.accumulate,
        }
        .into(),
        G::Rope(o) => kernels::Rope { x: t(o.x), out: t(o.out), base: o.base, inverse: o.inverse }.into(),
        G::Attention(o) => kernels::Attention {
            q: heads(o.q),
            k: heads(o.k),
            v: heads(o.v),
            kv_heads: o.kv_heads,
            out: t(o.out),
            lse: t(o.lse),
            window: o.window,
            scale: o.scale,
        }
        .into(),
        G::AttentionBackward(o) => kernels::AttentionBackward {
            q: heads(o.q),
            k: heads(o.k),
            v: heads(o.v),
            kv_heads: o.kv_heads,
            out: t(o.out),
            lse: t(o.lse),
            dout: t(o.dout),
            dq: t(o.dq),
            dk: t(o.dk),
            dv: t(o.dv),
            window: o.window,
            scale: o.scale,
        }
        .into(),
        G::Gather(o) => kernels::Gather { table: t(o.table), indices: t(o.indices), out: t(o.out) }.into(),
        G::ScatterAdd(o) => kernels::ScatterAdd {
            src: t(o.src),
            indices: t(o.indices),
            table: t(o.table),
            accumulate: o.accumulate,
        }
        .into(),
        G::LinearCrossEntropy(o) => kernels::LinearCrossEntropy {
            x: t(o.x),
            weight: t(o.weight),
            targets: t(o.targets),
            losses: t(o.losses),
            lse: t(o.lse),
            softcap: o.softcap,
        }
        .into(),
        G::LinearCrossEntropyBackward(o) => kernels::LinearCrossEntropyBackward {
            x: t(o.x),
            weight: t(o.weight),
            targets: t(o.targets),
            lse: t(o.lse),
            dx: t(o.dx),
            dweight: t(o.dweight),
            softcap: o.softcap,
            grad_scale: o.grad_scale,
            accumulate: o.accumulate,
        }
        .into(),
        G::Adamw(o) => kernels::AdamW {
            param: t(o.param),
            grad: t(o.grad),
            m: t(o.m),
            v: t(o.v),
            hyper: t(o.hyper),
            rounded: o.rounded.map(t),
        }
        .into(),
    }
}

fn distribution(distribution: wit::Distribution) -> kernels::Distribution {
    match distribution {
        wit::Distribution::Normal => kernels::Distribution::Normal,
        wit::Distribution::Uniform => kernels::Distribution::Uniform,
    }
}

fn layout(layout: wit::Layout) -> kernels::Layout {
    match layout {
        wit::Layout::Element => kernels::Layout::Element,
        wit::Layout::PerRow => kernels::Layout::PerRow,
        wit::Layout::PerCol => kernels::Layout::PerCol,
        wit::Layout::Scalar => kernels::Layout::Scalar,
    }
}

fn node(node: wit::Node) -> kernels::Node {
    match node {
        wit::Node::Input(k) => kernels::Node::Input(k),
        wit::Node::Constant(c) => kernels::Node::Constant(c),
        wit::Node::Unary(n) => kernels::Node::Unary { op: unary(n.op), a: n.a },
        wit::Node::Binary(n) => kernels::Node::Binary { op: binary(n.op), a: n.a, b: n.b },
        wit::Node::Select(n) => {
            kernels::Node::Select { condition: n.condition, then: n.then, otherwise: n.otherwise }
        }
        wit::Node::Reduce(n) => kernels::Node::Reduce {
            op: match n.op {
                wit::Reduction::Sum => kernels::Reduction::Sum,
                wit::Reduction::Maximum => kernels::Reduction::Maximum,
            },
            a: n.a,
        },
        wit::Node::ColIndex => kernels::Node::ColIndex,
    }
}

fn unary(op: wit::UnaryOp) -> kernels::UnaryOp {
    use kernels::UnaryOp as K;
    use wit::UnaryOp as G;
    match op {
        G::Negate => K::Negate,
        G::Absolute => K::Absolute,
        G::Reciprocal => K::Reciprocal,
        G::Square => K::Square,
        G::SquareRoot => K::SquareRoot,
        G::ReciprocalSquareRoot => K::ReciprocalSquareRoot,
        G::Exponential => K::Exponential,
        G::Logarithm => K::Logarithm,
        G::Tanh => K::Tanh,
        G::Sigmoid => K::Sigmoid,
        G::Relu => K::Relu,
        G::Step => K::Step,
        G::Sine => K::Sine,
        G::Cosine => K::Cosine,
        G::Floor => K::Floor,
    }
}

fn binary(op: wit::BinaryOp) -> kernels::BinaryOp {
    use kernels::BinaryOp as K;
    use wit::BinaryOp as G;
    match op {
        G::Add => K::Add,
        G::Subtract => K::Subtract,
        G::Multiply => K::Multiply,
        G::Divide => K::Divide,
        G::Minimum => K::Minimum,
        G::Maximum => K::Maximum,
        G::LessThan => K::LessThan,
        G::Power => K::Power,
    }
}
