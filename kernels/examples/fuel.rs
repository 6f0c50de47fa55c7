//! Whether device fuel means time: every operation at shapes that are good for
//! it and at shapes that are as bad as one can think of (rows of one element,
//! batches of tiny products, one key for all, numbers in the worst order), and
//! how long a unit of fuel takes there.
//! `cargo run --release -p terrarium-kernels --example fuel [WORD]`; one thread.
//!
//! A shape whose fuel takes many times longer than a product's is a way to hold
//! a device for longer than was paid for. `kernels/tests/device/fuel.rs` bounds
//! it.

use std::time::Instant;

use terrarium_kernels::*;

/// Operations and the name of what is bad about them.
type Case = (String, Vec<Op>);

struct Bench {
    device: Device,
    word: String,
    rows: Vec<(f64, String, f64, u64)>,
}

impl Bench {
    fn floats(&mut self, shape: &[u32]) -> Result<TensorId, Error> {
        let dst = self.device.alloc(DType::F32, shape)?;
        let fill =
            Random { dst, seed: 1, stream: dst.to_bits(), distribution: Distribution::Uniform, scale: 1.0 };
        let graph = self.device.prepare(vec![fill.into()])?;
        self.device.run(&graph)?;
        Ok(dst)
    }

    /// An index tensor of `value(n)`.
    fn ints(&mut self, shape: &[u32], value: impl Fn(u32) -> i32) -> Result<TensorId, Error> {
        let dst = self.device.alloc(DType::I32, shape)?;
        let values: Vec<i32> = (0..shape.iter().product()).map(value).collect();
        self.device.upload_i32(dst, 0, &values)?;
        Ok(dst)
    }

    /// The mean of a few runs; then all tensors are freed.
    fn time(&mut self, (name, ops): Case) -> Result<(), Error> {
        let graph = self.device.prepare(ops)?;
        let (mut rounds, start, begin) = (0, processor_time(), Instant::now());
        while rounds < 2 || begin.elapsed().as_millis() < 60 {
            match self.device.run(&graph) {
                Err(error) if error.code() != ErrorCode::IndexRange => return Err(error),
                _ => rounds += 1,
            }
        }
        let best = (processor_time() - start) / f64::from(rounds);
        let fuel = graph.cost();
        drop(graph);
        self.device.reset();
        self.rows.push((best * 1e12 / fuel as f64, name, best * 1e6, fuel));
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.word)
    }
}

fn map(
    rows: u32,
    cols: u32,
    inputs: Vec<(TensorId, Layout)>,
    nodes: Vec<Node>,
    store: (TensorId, Layout),
) -> Op {
    let node = nodes.len() as u32 - 1;
    let inputs = inputs.into_iter().map(|(tensor, layout)| Operand { tensor, layout }).collect();
    RowMap { rows, cols, inputs, nodes, stores: vec![Store { node, tensor: store.0, layout: store.1 }] }
        .into()
}

/// Seconds that this thread has had a processor: what others do in between
/// does not count. The wall clock where the kernel does not tell.
fn processor_time() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.get_or_init(Instant::now).elapsed().as_secs_f64(), |ns| ns * 1e-9)
}

/// A number that jumps about below `bound`.
fn scattered(n: u32, bound: u32) -> i32 {
    (n.wrapping_mul(2_654_435_761) % bound) as i32
}

fn main() -> Result<(), Error> {
    let word = std::env::args().nth(1).unwrap_or_default();
    let device = Device::cpu(CpuConfig { threads: 1, max_bytes: 4 << 30, max_tensors: 1 << 16 })?;
    let mut b = Bench { device, word, rows: Vec::new() };
    products(&mut b)?;
    moves(&mut b)?;
    maps(&mut b)?;
    norms(&mut b)?;
    heads(&mut b)?;
    experts(&mut b)?;
    losses(&mut b)?;
    b.rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (ps, name, us, fuel) in &b.rows {
        println!("{ps:>9.2} ps/fuel  {us:>11.1} µs {fuel:>14} fuel  {name}");
    }
    Ok(())
}

fn products(b: &mut Bench) -> Result<(), Error> {
    for (batch, m, k, n) in [
        (1, 512, 512, 512),
        (1, 1, 4096, 4096),
        (1, 4096, 4096, 1),
        (1, 1_000_000, 1, 1),
        (1, 1, 1_000_000, 1),
        (1, 1000, 1, 1000),
        (1, 3, 1_000_000, 3),
        (200_000, 1, 1, 1),
        (100_000, 2, 2, 2),
        (50_000, 1, 9, 1),
        (50_000, 1, 1, 9),
        (20_000, 9, 9, 9),
        (10_000, 1, 64, 1),
        (3_000, 17, 17, 17),
    ] {
        for (trans_a, trans_b, dtype) in
            [(false, false, DType::F32), (true, true, DType::F32), (false, false, DType::Bf16)]
        {
            let name = format!("MatMul {batch} × {m}·{k}·{n} {trans_a} {dtype:?}");
            if !b.wants(&name) {
                continue;
            }
            let shape = |r, c, t: bool| if t { [batch, c, r] } else { [batch, r, c] };
            let (x, y) = (
                b.device.alloc(dtype, &shape(m, k, trans_a))?,
                b.device.alloc(dtype, &shape(k, n, trans_b))?,
            );
            let out = b.device.alloc(dtype, &[batch, m, n])?;
            let op = MatMul { a: x, b: y, out, trans_a, trans_b, alpha: 1.0, accumulate: false };
            b.time((name, vec![op.into()]))?;
        }
        let name = format!("MatMulFused GELU {batch} × {m}·{k}·{n}");
        if b.wants(&name) {
            let (x, y) = (b.floats(&[batch, m, k])?, b.floats(&[batch, k, n])?);
            let (out, pre) = (b.floats(&[batch, m, n])?, b.floats(&[batch, m, n])?);
            let op = MatMulFused {
                a: x,
                b: y,
                out,
                trans_a: false,
                trans_b: false,
                alpha: 1.0,
                bias: None,
                residual: None,
                pre: Some(pre),
                activation: Activation::Gelu,
                backward: false,
            };
            b.time((name, vec![op.into()]))?;
        }
    }
    Ok(())
}

fn moves(b: &mut Bench) -> Result<(), Error> {
    let large = 1 << 22;
    if b.wants("Fill") {
        for (what, n) in [("one", 1), ("many", large)] {
            let dst = b.floats(&[n])?;
            b.time((format!("Fill {what}"), vec![Fill { dst, value: 1.0 }.into(); 100]))?;
        }
    }
    for distribution in [Distribution::Normal, Distribution::Uniform] {
        if b.wants("Random") {
            let dst = b.floats(&[large])?;
            let op = Random { dst, seed: 1, stream: 0, distribution, scale: 1.0 };
            b.time((format!("Random {distribution:?}"), vec![op.into()]))?;
        }
    }
    for (from, to) in [
        (DType::F32, DType::F32),
        (DType::F32, DType::Bf16),
        (DType::Bf16, DType::F32),
        (DType::F32, DType::I32),
        (DType::I32, DType::Bf16),
        (DType::Bf16, DType::Bf16),
    ] {
        if b.wants("Copy") {
            let (src, dst) = (b.device.alloc(from, &[large])?, b.device.alloc(to, &[large])?);
            b.time((format!("Copy {from:?} {to:?}"), vec![Copy { src, dst }.into()]))?;
        }
    }
    for (rows, cols, width) in [(large, 1, 1), (1 << 16, 1024, 1), (1 << 16, 1024, 512), (4, 1 << 22, 1)] {
        for accumulate in [false, true] {
            let name = format!("Columns {width} of {rows}·{cols} {accumulate}");
            if b.wants(&name) {
                let (src, dst) = (b.floats(&[rows, cols])?, b.floats(&[rows, cols])?);
                let op = Columns { src, src_col: cols - width, dst, dst_col: 0, width, accumulate };
                b.time((name, vec![op.into()]))?;
            }
        }
    }
    for (batch, rows, cols) in [
        (large, 1, 1),
        (1, large, 1),
        (1, 1, large),
        (1, 2048, 2048),
        (1, 4096, 4096),
        (1 << 20, 2, 2),
        (1, 1 << 20, 4),
    ] {
        let name = format!("Transpose {batch} × {rows}·{cols}");
        if b.wants(&name) {
            let (src, dst) = (b.floats(&[batch, rows, cols])?, b.floats(&[batch, cols, rows])?);
            b.time((name, vec![Transpose { src, dst }.into()]))?;
        }
    }
    for (entries, cols, rows) in
        [(1 << 24, 1, large), (256, 1, large), (1 << 20, 16, 1 << 20), (1 << 12, 1024, 1 << 12)]
    {
        for order in ["scattered", "one", "wrong"] {
            let of = move |n: u32| match order {
                "scattered" => scattered(n, entries),
                "one" => entries as i32 - 1,
                _ => -1,
            };
            let name = format!("Gather {rows} of {entries}·{cols} {order}");
            if b.wants(&name) {
                let (table, out) = (b.floats(&[entries, cols])?, b.floats(&[rows, cols])?);
                let indices = b.ints(&[rows], of)?;
                b.time((name, vec![Gather { table, indices, out }.into()]))?;
            }
            for accumulate in [false, true] {
                let name = format!("ScatterAdd {rows} into {entries}·{cols} {order} {accumulate}");
                if b.wants(&name) {
                    let (table, src) = (b.floats(&[entries, cols])?, b.floats(&[rows, cols])?);
                    let indices = b.ints(&[rows], of)?;
                    b.time((name, vec![ScatterAdd { src, indices, table, accumulate }.into()]))?;
                }
            }
        }
    }
    for (rows, cols) in [(large, 1), (1, large), (1 << 11, 1 << 11), (64, 1 << 16), (1 << 16, 3)] {
        for axis in [ReduceAxis::Rows, ReduceAxis::Cols, ReduceAxis::All] {
            let name = format!("Reduce {axis:?} {rows}·{cols}");
            if b.wants(&name) {
                let src = b.floats(&[rows, cols])?;
                let dst = b.floats(&[match axis {
                    ReduceAxis::Rows => cols,
                    ReduceAxis::Cols => rows,
                    ReduceAxis::All => 1,
                }])?;
                b.time((name, vec![Reduce { src, dst, axis, scale: 1.0, accumulate: false }.into()]))?;
            }
        }
    }
    if b.wants("AdamW") {
        let [param, grad, m, v] = [
            b.floats(&[large])?,
            b.floats(&[large])?,
            b.floats(&[large])?,
            b.device.alloc(DType::F32, &[large])?,
        ];
        let hyper = b.floats(&[7])?;
        b.time(("AdamW".into(), vec![AdamW { param, grad, m, v, hyper, rounded: None }.into()]))?;
    }
    Ok(())
}

fn maps(b: &mut Bench) -> Result<(), Error> {
    use UnaryOp as U;
    let n = 1 << 20;
    for (rows, cols) in [(1, n), (n, 1), (1, 1), (1 << 10, 1 << 10)] {
        for op in [
            U::Negate,
            U::Reciprocal,
            U::SquareRoot,
            U::Exponential,
            U::Logarithm,
            U::Tanh,
            U::Sigmoid,
            U::Sine,
            U::Cosine,
            U::Floor,
            U::Step,
        ] {
            for (what, scale) in [("small", 1.0), ("large", 1e30), ("tiny", 1e-41)] {
                let name = format!("RowMap {op:?} {what} {rows}·{cols}");
                if (cols == n || what == "small") && b.wants(&name) {
                    let (x, out) = (b.floats(&[rows, cols])?, b.floats(&[rows, cols])?);
                    let scaled = map(
                        rows,
                        cols,
                        vec![(x, Layout::Element)],
                        vec![
                            Node::Input(0),
                            Node::Constant(scale),
                            Node::Binary { op: BinaryOp::Multiply, a: 0, b: 1 },
                        ],
                        (x, Layout::Element),
                    );
                    let graph = b.device.prepare(vec![scaled])?;
                    b.device.run(&graph)?;
                    let mut nodes = vec![Node::Input(0)];
                    nodes.push(Node::Unary { op, a: 0 });
                    let op = map(rows, cols, vec![(x, Layout::Element)], nodes, (out, Layout::Element));
                    b.time((name, vec![op]))?;
                }
            }
        }
        for op in [BinaryOp::Divide, BinaryOp::Power, BinaryOp::Maximum] {
            let name = format!("RowMap {op:?} {rows}·{cols}");
            if b.wants(&name) {
                let (x, out) = (b.floats(&[rows, cols])?, b.floats(&[rows, cols])?);
                let nodes = vec![Node::Input(0), Node::Binary { op, a: 0, b: 0 }];
                let op = map(rows, cols, vec![(x, Layout::Element)], nodes, (out, Layout::Element));
                b.time((name, vec![op]))?;
            }
        }
        let name = format!("RowMap sums {rows}·{cols}");
        if b.wants(&name) {
            let (x, out) = (b.floats(&[rows, cols])?, b.floats(&[rows])?);
            let nodes = vec![Node::Input(0), Node::Reduce { op: Reduction::Maximum, a: 0 }];
            let op = map(rows, cols, vec![(x, Layout::Element)], nodes, (out, Layout::PerRow));
            b.time((name, vec![op]))?;
        }
        let name = format!("RowMap nothing but columns {rows}·{cols}");
        if b.wants(&name) {
            let out = b.floats(&[rows, cols])?;
            let mut nodes: Vec<Node> = vec![Node::ColIndex; 127];
            for at in 0..127u32 {
                let a = if at == 0 { 0 } else { 126 + at };
                nodes.push(Node::Binary { op: BinaryOp::Add, a, b: at });
            }
            let op = map(rows, cols, vec![], nodes, (out, Layout::Element));
            b.time((name, vec![op]))?;
        }
        let name = format!("RowMap rows spread {rows}·{cols}");
        if b.wants(&name) {
            let (x, y, out) = (b.floats(&[rows])?, b.floats(&[rows, cols])?, b.floats(&[rows, cols])?);
            let mut nodes = vec![Node::Input(0), Node::Input(1)];
            for _ in 0..100 {
                nodes.push(Node::Unary {
                    op: U::Negate,
                    a: nodes.len() as u32 - if nodes.len() == 2 { 2 } else { 1 },
                });
            }
            let chain = nodes.len() as u32;
            for at in 0..100u32 {
                let last = if at == 0 { 1 } else { chain + at - 1 };
                nodes.push(Node::Binary { op: BinaryOp::Add, a: last, b: 2 + at });
            }
            let op = map(
                rows,
                cols,
                vec![(x, Layout::PerRow), (y, Layout::Element)],
                nodes,
                (out, Layout::Element),
            );
            b.time((name, vec![op]))?;
        }
    }
    // Whole rows in many registers.
    for (rows, cols, live) in [(64, 1 << 16, 60u32), (16, 1 << 18, 14), (4, 1 << 20, 3), (4, 4100, 60)] {
        let name = format!("RowMap {live} long rows {rows}·{cols}");
        if b.wants(&name) {
            let (x, out) = (b.floats(&[rows, cols])?, b.floats(&[rows])?);
            let mut nodes = vec![Node::Input(0)];
            for _ in 0..live {
                let a = nodes.len() as u32 - 1;
                nodes.push(Node::Unary { op: U::Negate, a });
            }
            let mut last = live;
            for at in (1..live).rev() {
                nodes.push(Node::Binary { op: BinaryOp::Maximum, a: last, b: at });
                last = nodes.len() as u32 - 1;
            }
            nodes.push(Node::Reduce { op: Reduction::Maximum, a: last });
            let op = map(rows, cols, vec![(x, Layout::Element)], nodes, (out, Layout::PerRow));
            b.time((name, vec![op]))?;
        }
    }
    Ok(())
}

fn norms(b: &mut Bench) -> Result<(), Error> {
    for (rows, cols) in [(1 << 20, 1), (1 << 19, 3), (1 << 11, 512), (1, 1 << 20)] {
        let name = format!("norms {rows}·{cols}");
        if !b.wants(&name) {
            continue;
        }
        let make = |b: &mut Bench| -> Result<_, Error> {
            Ok((
                b.floats(&[rows, cols])?,
                b.floats(&[rows, cols])?,
                b.floats(&[rows, cols])?,
                b.floats(&[rows])?,
                b.floats(&[rows])?,
            ))
        };
        let (x, out, _, inv_rms, _) = make(b)?;
        b.time((format!("RmsNorm {name}"), vec![RmsNorm { x, out, inv_rms, eps: 1e-6 }.into()]))?;
        let (x, dx, dout, inv_rms, _) = make(b)?;
        let op = RmsNormBackward { x, inv_rms, dout, dx, accumulate: true };
        b.time((format!("RmsNormBackward {name}"), vec![op.into()]))?;
        let (x, out, _, mean, inv_std) = make(b)?;
        b.time((
            format!("LayerNorm {name}"),
            vec![LayerNorm { x, gain: None, bias: None, out, mean, inv_std, eps: 1e-6 }.into()],
        ))?;
        let (x, dx, dout, mean, inv_std) = make(b)?;
        let op = LayerNormBackward {
            x,
            gain: None,
            mean,
            inv_std,
            dout,
            dx,
            dgain: None,
            dbias: None,
            accumulate: true,
        };
        b.time((format!("LayerNormBackward {name}"), vec![op.into()]))?;
    }
    Ok(())
}

fn heads(b: &mut Bench) -> Result<(), Error> {
    for (batch, time, heads, dim) in
        [(1, 1 << 16, 1, 64), (1 << 16, 1, 1, 2), (1, 1 << 20, 1, 2), (4, 1024, 8, 64), (1, 1, 1 << 18, 2)]
    {
        let shape = [batch, time, heads, dim];
        let name = format!("Rope {shape:?}");
        if b.wants(&name) {
            // Nine bases: none is found in what is kept.
            let (x, out) = (b.floats(&shape)?, b.floats(&shape)?);
            let ops = (0..9).map(|n| Rope { x, out, base: 1e4 + n as f32, inverse: false }.into()).collect();
            b.time((name, ops))?;
        }
        let name = format!("RopeNorm {shape:?}");
        if b.wants(&name) {
            let x = b.floats(&[batch * time, heads * dim])?;
            let (out, inv_rms) = (b.floats(&shape)?, b.floats(&[batch, time, heads])?);
            let op = |n: u32| RopeNorm { x, x_col: 0, out, inv_rms, base: 1e4 + n as f32, eps: 1e-6 }.into();
            b.time((name, (0..9).map(op).collect()))?;
        }
    }
    for (batch, time, heads, dim, window) in [
        (4, 1024, 4, 64, 0),
        (100_000, 1, 1, 1, 0),
        (1, 1, 100_000, 1, 0),
        (20_000, 1, 1, 64, 0),
        (1, 1 << 16, 1, 1, 1),
        (1, 1 << 15, 1, 64, 1),
        (1, 1 << 16, 1, 1, 65),
        (1000, 65, 1, 1, 0),
        (1, 4096, 1, 1, 0),
        (2, 257, 16, 2, 0),
    ] {
        let shape = [batch, time, heads, dim];
        let name = format!("Attention {shape:?} window {window}");
        if b.wants(&name) {
            let [q, k, v] = [b.floats(&shape)?, b.floats(&shape)?, b.floats(&shape)?].map(Heads::from);
            let (out, kv_heads) = (b.floats(&shape)?, heads);
            let lse = b.floats(&[batch, heads, time])?;
            b.time((name, vec![Attention { q, k, v, kv_heads, out, lse, window, scale: 0.1 }.into()]))?;
        }
        let name = format!("AttentionBackward {shape:?} window {window}");
        if b.wants(&name) {
            let [q, k, v] = [b.floats(&shape)?, b.floats(&shape)?, b.floats(&shape)?].map(Heads::from);
            let (out, kv_heads) = (b.floats(&shape)?, heads);
            let [dq, dk, dv, dout] =
                [b.floats(&shape)?, b.floats(&shape)?, b.floats(&shape)?, b.floats(&shape)?];
            let lse = b.floats(&[batch, heads, time])?;
            let op = AttentionBackward { q, k, v, kv_heads, out, lse, dout, dq, dk, dv, window, scale: 0.1 };
            b.time((name, vec![op.into()]))?;
        }
    }
    Ok(())
}

fn experts(b: &mut Bench) -> Result<(), Error> {
    for (rows, cols, k) in
        [(1, 1 << 12, 1 << 11), (64, 1024, 1024), (1 << 20, 1, 1), (1 << 15, 64, 2), (1 << 16, 8, 8)]
    {
        for order in ["ascending", "random", "descending"] {
            let name = format!("TopK {k} of {rows}·{cols} {order}");
            if b.wants(&name) {
                let x = b.floats(&[rows, cols])?;
                if order != "random" {
                    let sign = if order == "ascending" { 1.0 } else { -1.0 };
                    let values: Vec<f32> = (0..rows * cols).map(|n| sign * (n % cols) as f32).collect();
                    b.device.upload_f32(x, 0, &values)?;
                }
                let (values, indices) = (b.floats(&[rows, k])?, b.ints(&[rows, k], |_| 0)?);
                b.time((name, vec![TopK { x, values, indices }.into()]))?;
            }
        }
        let name = format!("TopKBackward {k} of {rows}·{cols}");
        if b.wants(&name) {
            let (dx, dvalues) = (b.floats(&[rows, cols])?, b.floats(&[rows, k])?);
            let indices = b.ints(&[rows, k], |n| scattered(n, cols))?;
            b.time((name, vec![TopKBackward { dvalues, indices, dx, accumulate: false }.into()]))?;
        }
    }
    for (count, groups) in [(1 << 20, 1 << 22), (1 << 22, 1 << 20), (1 << 20, 4), (1, 1 << 22)] {
        let name = format!("SortByKey {count} into {groups}");
        if b.wants(&name) {
            let keys = b.ints(&[count], |n| scattered(n, groups))?;
            let (sources, places) = (b.ints(&[count], |_| 0)?, b.ints(&[count], |_| 0)?);
            let starts = b.ints(&[groups + 1], |_| 0)?;
            b.time((name, vec![SortByKey { keys, sources, places, starts, per_source: 3 }.into()]))?;
        }
    }
    for (rows, groups, k, n) in [
        (4096, 8, 128, 128),
        (100_000, 100_000, 1, 1),
        (1 << 16, 1 << 16, 2, 2),
        (64, 64, 512, 512),
        (1 << 20, 1, 1, 1),
    ] {
        for weight in [false, true] {
            let name = format!("GroupedMatMul {rows} rows {groups} groups {k}·{n} weight {weight}");
            if b.wants(&name) {
                let starts = b.ints(&[groups + 1], move |g| {
                    (u64::from(g) * u64::from(rows) / u64::from(groups)) as i32
                })?;
                let a = b.floats(&[rows, k])?;
                if weight {
                    let (y, out) = (b.floats(&[rows, n])?, b.floats(&[groups, k, n])?);
                    b.time((
                        name,
                        vec![GroupedMatMulWeight { a, b: y, starts, out, accumulate: false }.into()],
                    ))?;
                } else {
                    let (y, out) = (b.floats(&[groups, k, n])?, b.floats(&[rows, n])?);
                    let op = GroupedMatMul { a, b: y, starts, out, trans_b: false, accumulate: false };
                    b.time((name, vec![op.into()]))?;
                }
            }
        }
    }
    Ok(())
}

fn losses(b: &mut Bench) -> Result<(), Error> {
    for (rows, channels, vocabulary) in [
        (1024, 128, 256),
        (1 << 20, 1, 1),
        (1 << 18, 1, 3),
        (1, 1, 1 << 22),
        (1 << 10, 1, 1 << 12),
        (4, 512, 1 << 16),
    ] {
        for softcap in [0.0, 15.0] {
            let name = format!("LinearCrossEntropy {rows}·{channels}·{vocabulary} cap {softcap}");
            if b.wants(&name) {
                let (x, weight) = (b.floats(&[rows, channels])?, b.floats(&[vocabulary, channels])?);
                let targets = b.ints(&[rows], |n| scattered(n, vocabulary))?;
                let (losses, lse) = (b.floats(&[rows])?, b.floats(&[rows])?);
                b.time((name, vec![LinearCrossEntropy { x, weight, targets, losses, lse, softcap }.into()]))?;
            }
            let name = format!("LinearCrossEntropyBackward {rows}·{channels}·{vocabulary} cap {softcap}");
            if b.wants(&name) {
                let (x, weight) = (b.floats(&[rows, channels])?, b.floats(&[vocabulary, channels])?);
                let targets = b.ints(&[rows], |n| scattered(n, vocabulary))?;
                let (dx, dweight) = (b.floats(&[rows, channels])?, b.floats(&[vocabulary, channels])?);
                let lse = b.floats(&[rows])?;
                let (grad_scale, accumulate) = (1.0, false);
                let op = LinearCrossEntropyBackward {
                    x,
                    weight,
                    targets,
                    lse,
                    dx,
                    dweight,
                    softcap,
                    grad_scale,
                    accumulate,
                };
                b.time((name, vec![op.into()]))?;
            }
        }
    }
    Ok(())
}
