//! Device fuel bounds time: the shapes that are worst for an operation take no
//! more time for their fuel than a small factor above what a matrix product
//! takes. `examples/fuel.rs` measures all; here are those that once took a
//! thousand times as long.

use terrarium_kernels::*;

/// Longest time for a unit of fuel, in units of a large product's. Measured:
/// below 10 (`examples/fuel.rs`); before rows, places and blocks had a price,
/// 100 to 1,000.
const MOST: f64 = 40.0;

struct Case {
    device: Device,
}

impl Case {
    fn new() -> Case {
        Case { device: Device::cpu(CpuConfig { threads: 1, ..CpuConfig::default() }).unwrap() }
    }

    fn floats(&mut self, shape: &[u32]) -> TensorId {
        self.device.alloc(DType::F32, shape).unwrap()
    }

    fn ints(&mut self, shape: &[u32], value: impl Fn(u32) -> i32) -> TensorId {
        let id = self.device.alloc(DType::I32, shape).unwrap();
        let values: Vec<i32> = (0..shape.iter().product()).map(value).collect();
        self.device.upload_i32(id, 0, &values).unwrap();
        id
    }

    /// Seconds for a unit of fuel: the least of some runs, on this thread, since
    /// a device of one thread has no other.
    fn price(mut self, ops: Vec<Op>) -> f64 {
        let graph = self.device.prepare(ops).unwrap();
        let run = |device: &mut Device| {
            let start = seconds_of_this_thread();
            device.run(&graph).unwrap();
            seconds_of_this_thread() - start
        };
        let best = (0..6).map(|_| run(&mut self.device)).fold(f64::INFINITY, f64::min);
        assert!(best > 0.0);
        best / graph.cost() as f64
    }
}

/// That it ran: whoever else runs on the machine does not count.
fn seconds_of_this_thread() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to memory of its own.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn product(batch: u32, side: u32) -> f64 {
    let mut c = Case::new();
    let [a, b, out] = [(); 3].map(|()| c.floats(&[batch, side, side]));
    c.price(vec![MatMul { a, b, out, trans_a: false, trans_b: false, alpha: 1.0, accumulate: false }.into()])
}

fn attention(shape: [u32; 4], window: u32) -> f64 {
    let mut c = Case::new();
    let [q, k, v] = [(); 3].map(|()| c.floats(&shape).into());
    let out = c.floats(&shape);
    let lse = c.floats(&[shape[0], shape[2], shape[1]]);
    c.price(vec![Attention { q, k, v, kv_heads: shape[2], out, lse, window, scale: 1.0 }.into()])
}

fn scatter(entries: u32, rows: u32) -> f64 {
    let mut c = Case::new();
    let (src, table) = (c.floats(&[rows, 1]), c.floats(&[entries, 1]));
    let indices = c.ints(&[rows], |n| (n.wrapping_mul(2_654_435_761) % entries) as i32);
    c.price(vec![ScatterAdd { src, indices, table, accumulate: false }.into()])
}

fn ascending_top(rows: u32, cols: u32, k: u32) -> f64 {
    let mut c = Case::new();
    let x = c.floats(&[rows, cols]);
    let rising: Vec<f32> = (0..rows * cols).map(|n| (n % cols) as f32).collect();
    c.device.upload_f32(x, 0, &rising).unwrap();
    let (values, indices) = (c.floats(&[rows, k]), c.ints(&[rows, k], |_| 0));
    c.price(vec![TopK { x, values, indices }.into()])
}

fn single_groups(groups: u32) -> f64 {
    let mut c = Case::new();
    let (a, b, out) = (c.floats(&[groups, 1]), c.floats(&[groups, 1, 1]), c.floats(&[groups, 1]));
    let starts = c.ints(&[groups + 1], |g| g as i32);
    c.price(vec![GroupedMatMul { a, b, starts, out, trans_b: false, accumulate: false }.into()])
}

fn losses_of_one_byte(rows: u32) -> f64 {
    let mut c = Case::new();
    let (x, weight, losses, lse) =
        (c.floats(&[rows, 1]), c.floats(&[1, 1]), c.floats(&[rows]), c.floats(&[rows]));
    let targets = c.ints(&[rows], |_| 0);
    c.price(vec![LinearCrossEntropy { x, weight, targets, losses, lse, softcap: 0.0 }.into()])
}

fn columns(rows: u32, cols: u32) -> f64 {
    let mut c = Case::new();
    let (src, dst) = (c.floats(&[rows, cols]), c.floats(&[rows, cols]));
    c.price(vec![Columns { src, src_col: cols - 1, dst, dst_col: 0, width: 1, accumulate: false }.into()])
}

fn angles(time: u32, dim: u32) -> f64 {
    let mut c = Case::new();
    let (x, out) = (c.floats(&[1, time, 1, dim]), c.floats(&[1, time, 1, dim]));
    // More bases than tables are kept.
    c.price((0..9).map(|n| Rope { x, out, base: 1e4 + n as f32, inverse: false }.into()).collect())
}

fn sums_of_one(rows: u32) -> f64 {
    let mut c = Case::new();
    let (x, out) = (c.floats(&[rows, 1]), c.floats(&[rows]));
    let inputs = vec![Operand { tensor: x, layout: Layout::Element }];
    let nodes = vec![Node::Input(0), Node::Reduce { op: Reduction::Maximum, a: 0 }];
    let stores = vec![Store { node: 1, tensor: out, layout: Layout::PerRow }];
    c.price(vec![RowMap { rows, cols: 1, inputs, nodes, stores }.into()])
}

/// Many instructions on one element.
fn one_element() -> f64 {
    let mut c = Case::new();
    let (x, out) = (c.floats(&[1]), c.floats(&[1]));
    let inputs = vec![Operand { tensor: x, layout: Layout::Element }];
    let mut nodes = vec![Node::Input(0)];
    nodes.extend((0..200).map(|a| Node::Unary { op: UnaryOp::Negate, a }));
    let stores = vec![Store { node: 200, tensor: out, layout: Layout::Element }];
    let op: Op = RowMap { rows: 1, cols: 1, inputs, nodes, stores }.into();
    c.price(vec![op; 500])
}

fn norms_of_one(rows: u32) -> f64 {
    let mut c = Case::new();
    let [x, out, mean, inv_std] = [(); 4].map(|()| c.floats(&[rows, 1]));
    c.price(vec![LayerNorm { x, gain: None, bias: None, out, mean, inv_std, eps: 1e-6 }.into()])
}

fn normals(count: u32) -> f64 {
    let mut c = Case::new();
    let dst = c.floats(&[count]);
    let distribution = Distribution::Normal;
    c.price(vec![Random { dst, seed: 1, stream: 2, distribution, scale: 1.0 }.into()])
}

#[test]
fn the_worst_shapes_are_paid_for() {
    let unit = product(1, 512);
    for (what, price) in [
        ("products of one number", product(100_000, 1)),
        ("attention to one position", attention([50_000, 1, 1, 1], 0)),
        ("attention through a narrow window", attention([1, 1 << 15, 1, 1], 1)),
        ("a scatter into a large table", scatter(1 << 22, 1 << 18)),
        ("a scatter into one entry", scatter(1, 1 << 18)),
        ("the largest half of rising numbers", ascending_top(4, 4096, 2048)),
        ("two of rising numbers", ascending_top(1 << 14, 64, 2)),
        ("groups of one row", single_groups(50_000)),
        ("losses over a vocabulary of one", losses_of_one_byte(1 << 17)),
        ("a column of a wide matrix", columns(1 << 14, 1024)),
        ("angles that are not kept", angles(1 << 14, 64)),
        ("sums of one number", sums_of_one(1 << 18)),
        ("two hundred instructions for one number", one_element()),
        ("norms of one number", norms_of_one(1 << 18)),
        ("normal numbers", normals(1 << 18)),
    ] {
        let ratio = price / unit;
        assert!(ratio < MOST, "{what}: a unit of fuel takes {ratio:.0} times as long as in a product");
    }
}
