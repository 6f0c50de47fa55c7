//! Between the guest interface's types and the device's, field by field.

use terrarium_kernels as k;
use terrarium_sdk::bindings::trainer::terrarium::guest::compute as g;

/// A handle.
pub fn id(raw: u64) -> k::TensorId {
    k::TensorId::from_bits(raw)
}

/// Heads of an attention.
fn heads(heads: g::Heads) -> k::Heads {
    k::Heads { tensor: id(heads.tensor), col: heads.col }
}

/// An element type.
pub fn dtype(dtype: g::Dtype) -> k::DType {
    match dtype {
        g::Dtype::Float32 => k::DType::F32,
        g::Dtype::Int32 => k::DType::I32,
        g::Dtype::Bfloat16 => k::DType::Bf16,
    }
}

/// An error of the device.
pub fn error(error: k::Error) -> g::Error {
    let code = match error.code() {
        k::ErrorCode::BadHandle => g::ErrorCode::BadHandle,
        k::ErrorCode::InvalidArgument => g::ErrorCode::InvalidArgument,
        k::ErrorCode::ShapeMismatch => g::ErrorCode::ShapeMismatch,
        k::ErrorCode::Alias => g::ErrorCode::Alias,
        k::ErrorCode::OutOfMemory => g::ErrorCode::OutOfMemory,
        k::ErrorCode::Quota => g::ErrorCode::Quota,
        k::ErrorCode::IndexRange => g::ErrorCode::IndexRange,
        // As in the worker: whoever asks after the loss is refused.
        k::ErrorCode::DeviceLost => g::ErrorCode::Denied,
    };
    g::Error { code, op: error.op(), detail: error.to_string() }
}

/// A match from one enum's cases to the other's of the same names.
macro_rules! cases {
    ($name:ident: $($case:ident),*) => {
        #[allow(non_snake_case)]
        fn $name(value: g::$name) -> k::$name {
            match value { $(g::$name::$case => k::$name::$case),* }
        }
    };
}

cases!(Distribution: Normal, Uniform);
cases!(Activation: Identity, Relu, ReluSquared, Gelu, Silu);
cases!(Reduction: Sum, Maximum);
cases!(ReduceAxis: Rows, Cols, All);
cases!(Layout: Element, PerRow, PerCol, Scalar);
cases!(BinaryOp: Add, Subtract, Multiply, Divide, Minimum, Maximum, LessThan, Power);
cases!(UnaryOp: Negate, Absolute, Reciprocal, Square, SquareRoot, ReciprocalSquareRoot,
    Exponential, Logarithm, Tanh, Sigmoid, Relu, Step, Sine, Cosine, Floor);

fn node(node: &g::Node) -> k::Node {
    match *node {
        g::Node::Input(input) => k::Node::Input(input),
        g::Node::Constant(value) => k::Node::Constant(value),
        g::Node::Unary(n) => k::Node::Unary { op: UnaryOp(n.op), a: n.a },
        g::Node::Binary(n) => k::Node::Binary { op: BinaryOp(n.op), a: n.a, b: n.b },
        g::Node::Select(n) => {
            k::Node::Select { condition: n.condition, then: n.then, otherwise: n.otherwise }
        }
        g::Node::Reduce(n) => k::Node::Reduce { op: Reduction(n.op), a: n.a },
        g::Node::ColIndex => k::Node::ColIndex,
    }
}

/// `op!(o, GuestOp => KernelOp [tensors…] [values…] [tensors that may be
/// missing…])`
macro_rules! op {
    ($o:ident => $name:ident [$($tensor:ident)*] [$($value:ident)*]
     $([$($maybe:ident)*] $([$($heads:ident)*])?)?) => {
        k::$name {
            $($tensor: id($o.$tensor),)*
            $($value: $o.$value,)*
            $($($maybe: $o.$maybe.map(id),)* $($($heads: heads($o.$heads),)*)?)?
        }
        .into()
    };
}

/// An operation.
pub fn op(op: &g::Op) -> k::Op {
    match op {
        g::Op::Fill(o) => op!(o => Fill [dst] [value]),
        g::Op::Random(o) => k::Random {
            dst: id(o.dst),
            seed: o.seed,
            stream: o.stream,
            distribution: Distribution(o.distribution),
            scale: o.scale,
        }
        .into(),
        g::Op::Copy(o) => op!(o => Copy [src dst] []),
        g::Op::Columns(o) => op!(o => Columns [src dst] [src_col dst_col width accumulate]),
        g::Op::Transpose(o) => op!(o => Transpose [src dst] []),
        g::Op::Matmul(o) => op!(o => MatMul [a b out] [trans_a trans_b alpha accumulate]),
        g::Op::RandomStep(o) => k::RandomStep {
            dst: id(o.dst),
            seed: o.seed,
            stream: o.stream,
            counter: id(o.counter),
            distribution: Distribution(o.distribution),
            scale: o.scale,
        }
        .into(),
        g::Op::MatmulFused(o) => k::MatMulFused {
            a: id(o.a),
            b: id(o.b),
            out: id(o.out),
            trans_a: o.trans_a,
            trans_b: o.trans_b,
            alpha: o.alpha,
            bias: o.bias.map(id),
            residual: o.residual.map(id),
            pre: o.pre.map(id),
            activation: Activation(o.activation),
            backward: o.backward,
        }
        .into(),
        g::Op::GroupedMatmul(o) => op!(o => GroupedMatMul [a b starts out] [trans_b accumulate]),
        g::Op::GroupedMatmulWeight(o) => op!(o => GroupedMatMulWeight [a b starts out] [accumulate]),
        g::Op::TopK(o) => op!(o => TopK [x values indices] []),
        g::Op::TopKBackward(o) => op!(o => TopKBackward [dvalues indices dx] [accumulate]),
        g::Op::SortByKey(o) => op!(o => SortByKey [keys sources places starts] [per_source]),
        g::Op::LayerNorm(o) => op!(o => LayerNorm [x out mean inv_std] [eps] [gain bias]),
        g::Op::LayerNormBackward(o) => {
            op!(o => LayerNormBackward [x mean inv_std dout dx] [accumulate] [gain dgain dbias])
        }
        g::Op::RopeNorm(o) => op!(o => RopeNorm [x out inv_rms] [x_col base eps]),
        g::Op::RopeNormBackward(o) => {
            op!(o => RopeNormBackward [out inv_rms dout dx] [dx_col base accumulate])
        }
        g::Op::RowMap(o) => k::RowMap {
            rows: o.rows,
            cols: o.cols,
            inputs: o
                .inputs
                .iter()
                .map(|i| k::Operand { tensor: id(i.tensor), layout: Layout(i.layout) })
                .collect(),
            nodes: o.nodes.iter().map(node).collect(),
            stores: o
                .stores
                .iter()
                .map(|s| k::Store { node: s.node, tensor: id(s.tensor), layout: Layout(s.layout) })
                .collect(),
        }
        .into(),
        g::Op::Reduce(o) => k::Reduce {
            src: id(o.src),
            dst: id(o.dst),
            axis: ReduceAxis(o.axis),
            scale: o.scale,
            accumulate: o.accumulate,
        }
        .into(),
        g::Op::RmsNorm(o) => op!(o => RmsNorm [x out inv_rms] [eps]),
        g::Op::RmsNormBackward(o) => op!(o => RmsNormBackward [x inv_rms dout dx] [accumulate]),
        g::Op::Rope(o) => op!(o => Rope [x out] [base inverse]),
        g::Op::Attention(o) => op!(o => Attention [out lse] [kv_heads window scale] [] [q k v]),
        g::Op::AttentionBackward(o) => {
            op!(o => AttentionBackward [out lse dout dq dk dv] [kv_heads window scale] [] [q k v])
        }
        g::Op::Gather(o) => op!(o => Gather [table indices out] []),
        g::Op::ScatterAdd(o) => op!(o => ScatterAdd [src indices table] [accumulate]),
        g::Op::LinearCrossEntropy(o) => {
            op!(o => LinearCrossEntropy [x weight targets losses lse] [softcap])
        }
        g::Op::LinearCrossEntropyBackward(o) => {
            op!(o => LinearCrossEntropyBackward [x weight targets lse dx dweight] [softcap grad_scale accumulate])
        }
        g::Op::Adamw(o) => op!(o => AdamW [param grad m v hyper] [] [rounded]),
    }
}
