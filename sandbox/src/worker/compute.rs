//! `compute`: from the guest's requests to the device, with every quota.
//!
//! The device validates shapes, ranges and aliasing; this file counts: handles,
//! bytes, operations, device fuel. Work is charged before it runs.

use super::state::{Recorded, State, wit};
use crate::{Outcome, Phase};
use std::sync::Arc;
use std::time::Instant;
use terrarium_kernels as kernels;
use terrarium_kernels::TensorId;

type Answer<T> = wasmtime::Result<Result<T, wit::Error>>;

fn refusal(code: wit::ErrorCode, detail: impl Into<String>) -> wit::Error {
    wit::Error { code, op: None, detail: detail.into() }
}

pub(super) fn denied(call: &str) -> wit::Error {
    refusal(wit::ErrorCode::Denied, format!("{call} is refused while held-out data is in play"))
}

pub(super) fn invalid(detail: &str) -> wit::Error {
    refusal(wit::ErrorCode::InvalidArgument, detail)
}

fn quota(which: &str, limit: u64) -> wit::Error {
    refusal(wit::ErrorCode::Quota, format!("{which}: the limit is {limit}"))
}

/// The device's error, as the guest sees it.
pub(super) fn error(e: kernels::Error) -> wit::Error {
    use kernels::ErrorCode as From;
    use wit::ErrorCode as To;
    let code = match e.code() {
        From::BadHandle => To::BadHandle,
        From::InvalidArgument => To::InvalidArgument,
        From::ShapeMismatch => To::ShapeMismatch,
        From::Alias => To::Alias,
        From::OutOfMemory => To::OutOfMemory,
        From::Quota => To::Quota,
        From::IndexRange => To::IndexRange,
        // Ends the evaluation where it happens; whoever asks later is refused.
        From::DeviceLost => To::Denied,
    };
    wit::Error { code, op: e.op(), detail: e.to_string() }
}

impl State {
    /// Takes device fuel from the budget of the phase, or refuses.
    pub(super) fn charge(&mut self, name: &'static str, fuel: u64, ops: u64) -> Result<(), wit::Error> {
        self.take(fuel)?;
        *self.profile.entry(name).or_default() += fuel;
        self.device_ops += ops;
        Ok(())
    }

    fn take(&mut self, fuel: u64) -> Result<(), wit::Error> {
        let limits = &self.evaluation.limits;
        let (used, limit) = if self.phase == Phase::Forward {
            (self.forward_fuel, limits.forward_device_fuel)
        } else {
            (self.train_fuel, limits.device_fuel)
        };
        let after = used.saturating_add(fuel);
        if after > limit || (self.phase == Phase::Train && self.train_time_is_up()) {
            self.budget_refused = true;
            return Err(refusal(
                wit::ErrorCode::BudgetExhausted,
                format!("needs {fuel} device fuel; {} of {limit} is left", limit.saturating_sub(used)),
            ));
        }
        if self.phase == Phase::Forward {
            self.forward_fuel = after;
        } else {
            self.train_fuel = after;
        }
        Ok(())
    }

    fn prepare(&self, ops: Vec<wit::Op>) -> Result<Recorded, wit::Error> {
        let limits = &self.evaluation.limits;
        if ops.len() as u64 > limits.ops_per_list {
            return Err(quota("ops_per_list", limits.ops_per_list));
        }
        let graph = self.device.prepare(ops.into_iter().map(op).collect()).map_err(error)?;
        if graph.largest_cost() > limits.launch_device_fuel {
            return Err(quota("launch_device_fuel", limits.launch_device_fuel));
        }
        Ok(Recorded { profile: graph.profile(), graph })
    }

    fn run(&mut self, call: &str, Recorded { graph, profile }: &Recorded) -> Answer<()> {
        if let Err(refused) = self.take(graph.cost()) {
            return Ok(Err(refused));
        }
        for line in profile {
            *self.profile.entry(line.name).or_default() += line.cost;
        }
        self.device_ops += graph.ops() as u64;
        let start = Instant::now();
        let done = self.device.run(graph);
        self.kernel_time += start.elapsed();
        match done {
            // The guest must not learn this: by asking for it again and again
            // it could spell out held-out tokens.
            Err(e) if e.code() == kernels::ErrorCode::IndexRange && self.held_out_in_play() => {
                self.end(Outcome::HostDenied {
                    call: call.into(),
                    reason: "an index was out of range while held-out data is in play".into(),
                })
            }
            Err(e) if e.code() == kernels::ErrorCode::DeviceLost => {
                self.end(Outcome::DeviceLost { reason: e.to_string() })
            }
            done => Ok(done.map_err(error)),
        }
    }

    fn graph(&self, handle: u64) -> Result<Arc<Recorded>, wit::Error> {
        self.graphs
            .get(&handle)
            .cloned()
            .ok_or_else(|| refusal(wit::ErrorCode::BadHandle, "no such graph, or it was freed"))
    }

    /// Counts a transfer; over the limit it ends the evaluation, because a
    /// guest that goes on asking would spin.
    fn transfer(&mut self, bytes: u64) -> wasmtime::Result<()> {
        self.transfer_bytes = self.transfer_bytes.saturating_add(bytes);
        let limit = self.evaluation.limits.transfer_bytes;
        if self.transfer_bytes > limit {
            return self.end(Outcome::Quota { which: "transfer_bytes".into(), limit });
        }
        Ok(())
    }

    fn no_download(&mut self, call: &str) -> wasmtime::Result<()> {
        if self.held_out_in_play() {
            return self.end(Outcome::HostDenied {
                call: call.into(),
                reason: "downloads are refused while held-out data is in play".into(),
            });
        }
        Ok(())
    }

    fn room_for_tensor(&self) -> Result<(), wit::Error> {
        let limit = self.evaluation.limits.tensors;
        if u64::from(self.device.usage().tensors) >= limit { Err(quota("tensors", limit)) } else { Ok(()) }
    }
}

impl wit::Host for State {
    fn alloc(&mut self, dtype: wit::Dtype, shape: Vec<u32>) -> Answer<u64> {
        self.count_call()?;
        let dtype = match dtype {
            wit::Dtype::Float32 => kernels::DType::F32,
            wit::Dtype::Int32 => kernels::DType::I32,
        };
        Ok(self
            .room_for_tensor()
            .and_then(|()| self.device.alloc(dtype, &shape).map_err(error))
            .map(TensorId::to_bits))
    }

    fn view(&mut self, of: u64, offset: u64, shape: Vec<u32>) -> Answer<u64> {
        self.count_call()?;
        Ok(self
            .room_for_tensor()
            .and_then(|()| self.device.view(TensorId::from_bits(of), offset, &shape).map_err(error))
            .map(TensorId::to_bits))
    }

    fn free(&mut self, tensor: u64) -> Answer<()> {
        self.count_call()?;
        Ok(self.device.free(TensorId::from_bits(tensor)).map_err(error))
    }

    fn shape(&mut self, tensor: u64) -> Answer<Vec<u32>> {
        self.count_call()?;
        Ok(self.device.shape(TensorId::from_bits(tensor)).map(<[u32]>::to_vec).map_err(error))
    }

    fn upload_floats(&mut self, tensor: u64, offset: u64, values: Vec<f32>) -> Answer<()> {
        self.count_call()?;
        self.transfer(4 * values.len() as u64)?;
        Ok(self.device.upload_f32(TensorId::from_bits(tensor), offset, &values).map_err(error))
    }

    fn upload_ints(&mut self, tensor: u64, offset: u64, values: Vec<i32>) -> Answer<()> {
        self.count_call()?;
        self.transfer(4 * values.len() as u64)?;
        Ok(self.device.upload_i32(TensorId::from_bits(tensor), offset, &values).map_err(error))
    }

    fn download_floats(&mut self, tensor: u64, offset: u64, count: u32) -> Answer<Vec<f32>> {
        self.count_call()?;
        self.no_download("download-floats")?;
        self.transfer(4 * u64::from(count))?;
        let mut out = vec![0f32; count as usize];
        Ok(self
            .device
            .download_f32(TensorId::from_bits(tensor), offset, &mut out)
            .map(|()| out)
            .map_err(error))
    }

    fn download_ints(&mut self, tensor: u64, offset: u64, count: u32) -> Answer<Vec<i32>> {
        self.count_call()?;
        self.no_download("download-ints")?;
        self.transfer(4 * u64::from(count))?;
        let mut out = vec![0i32; count as usize];
        Ok(self
            .device
            .download_i32(TensorId::from_bits(tensor), offset, &mut out)
            .map(|()| out)
            .map_err(error))
    }

    fn submit(&mut self, ops: Vec<wit::Op>) -> Answer<()> {
        self.count_call()?;
        match self.prepare(ops) {
            Ok(graph) => self.run("submit", &graph),
            Err(e) => Ok(Err(e)),
        }
    }

    fn record_graph(&mut self, ops: Vec<wit::Op>) -> Answer<u64> {
        self.count_call()?;
        let limit = self.evaluation.limits.graphs;
        if self.graphs.len() as u64 >= limit {
            return Ok(Err(quota("graphs", limit)));
        }
        Ok(self.prepare(ops).map(|graph| {
            let handle = self.next_graph;
            self.next_graph += 1;
            self.graphs.insert(handle, Arc::new(graph));
            handle
        }))
    }

    fn cost(&mut self, graph: u64) -> Answer<u64> {
        self.count_call()?;
        Ok(self.graph(graph).map(|g| g.graph.cost()))
    }

    fn replay(&mut self, graph: u64) -> Answer<()> {
        self.count_call()?;
        match self.graph(graph) {
            Ok(graph) => self.run("replay", &graph),
            Err(e) => Ok(Err(e)),
        }
    }

    fn free_graph(&mut self, graph: u64) -> Answer<()> {
        self.count_call()?;
        Ok(self.graph(graph).map(|_| {
            self.graphs.remove(&graph);
        }))
    }
}

const fn t(bits: u64) -> TensorId {
    TensorId::from_bits(bits)
}

/// The device's request for a guest's request. Only names change: nothing is
/// checked here, so that the validator of the device is the one that decides.
fn op(op: wit::Op) -> kernels::Op {
    use wit::Op as G;
    match op {
        G::Fill(o) => kernels::Fill { dst: t(o.dst), value: o.value }.into(),
        G::Random(o) => kernels::Random {
            dst: t(o.dst),
            seed: o.seed,
            stream: o.stream,
            distribution: match o.distribution {
                wit::Distribution::Normal => kernels::Distribution::Normal,
                wit::Distribution::Uniform => kernels::Distribution::Uniform,
            },
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
            q: t(o.q),
            k: t(o.k),
            v: t(o.v),
            out: t(o.out),
            lse: t(o.lse),
            window: o.window,
            scale: o.scale,
        }
        .into(),
        G::AttentionBackward(o) => kernels::AttentionBackward {
            q: t(o.q),
            k: t(o.k),
            v: t(o.v),
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
        G::Adamw(o) => {
            kernels::AdamW { param: t(o.param), grad: t(o.grad), m: t(o.m), v: t(o.v), hyper: t(o.hyper) }
                .into()
        }
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
