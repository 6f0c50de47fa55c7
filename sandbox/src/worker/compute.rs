//! `compute`: from the guest's requests to the device, with every quota.
//!
//! The device validates shapes, ranges and aliasing; this file counts: handles,
//! bytes, operations, device fuel. Work is charged before it runs.

use super::native_peer::Request;
use super::operations::op;
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
        let nodes = |op: &wit::Op| if let wit::Op::RowMap(map) = op { map.nodes.len() as u64 } else { 0 };
        let size = ops.len() as u64 + ops.iter().map(nodes).sum::<u64>();
        let graph = self.device.prepare(ops.into_iter().map(op).collect()).map_err(error)?;
        if graph.largest_cost() > limits.launch_device_fuel {
            return Err(quota("launch_device_fuel", limits.launch_device_fuel));
        }
        Ok(Recorded { profile: graph.profile(), graph, size })
    }

    fn run(&mut self, call: &str, Recorded { graph, profile, .. }: &Recorded) -> Answer<()> {
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

    /// Room for `count` elements of a tensor: none is made for more than it has.
    fn buffer<T: Default + Clone>(&self, tensor: u64, count: u32) -> Result<Vec<T>, wit::Error> {
        let shape = self.device.shape(TensorId::from_bits(tensor)).map_err(error)?;
        let elements = shape.iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)));
        if u64::from(count) > elements {
            return Err(invalid(&format!("{count} elements leave the tensor of {elements}")));
        }
        Ok(vec![T::default(); count as usize])
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
            wit::Dtype::Bfloat16 => kernels::DType::Bf16,
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
        self.note(|| Request::Floats { tensor: TensorId::from_bits(tensor), offset, values: values.clone() });
        Ok(self.device.upload_f32(TensorId::from_bits(tensor), offset, &values).map_err(error))
    }

    fn upload_ints(&mut self, tensor: u64, offset: u64, values: Vec<i32>) -> Answer<()> {
        self.count_call()?;
        self.transfer(4 * values.len() as u64)?;
        self.note(|| Request::Ints { tensor: TensorId::from_bits(tensor), offset, values: values.clone() });
        Ok(self.device.upload_i32(TensorId::from_bits(tensor), offset, &values).map_err(error))
    }

    fn download_floats(&mut self, tensor: u64, offset: u64, count: u32) -> Answer<Vec<f32>> {
        self.count_call()?;
        self.no_download("download-floats")?;
        self.transfer(4 * u64::from(count))?;
        let room = self.buffer::<f32>(tensor, count);
        if room.is_ok() {
            self.note(|| Request::Read { tensor: TensorId::from_bits(tensor), offset, count });
        }
        Ok(room.and_then(|mut out| {
            let id = TensorId::from_bits(tensor);
            self.device.download_f32(id, offset, &mut out).map(|()| out).map_err(error)
        }))
    }

    fn download_ints(&mut self, tensor: u64, offset: u64, count: u32) -> Answer<Vec<i32>> {
        self.count_call()?;
        self.no_download("download-ints")?;
        self.transfer(4 * u64::from(count))?;
        Ok(self.buffer::<i32>(tensor, count).and_then(|mut out| {
            let id = TensorId::from_bits(tensor);
            self.device.download_i32(id, offset, &mut out).map(|()| out).map_err(error)
        }))
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
        let graph = match self.prepare(ops) {
            Ok(graph) => graph,
            Err(e) => return Ok(Err(e)),
        };
        // They live in the host's memory, which the device does not count.
        let limit = self.evaluation.limits.graph_ops;
        if self.recorded.saturating_add(graph.size) > limit {
            return Ok(Err(quota("graph_ops", limit)));
        }
        self.recorded += graph.size;
        let handle = self.next_graph;
        self.next_graph += 1;
        self.graphs.insert(handle, Arc::new(graph));
        Ok(Ok(handle))
    }

    fn cost(&mut self, graph: u64) -> Answer<u64> {
        self.count_call()?;
        Ok(self.graph(graph).map(|g| g.graph.cost()))
    }

    fn replay(&mut self, graph: u64) -> Answer<()> {
        self.count_call()?;
        match self.graph(graph) {
            Ok(graph) => {
                let done = self.run("replay", &graph);
                if matches!(done, Ok(Ok(()))) {
                    self.step_beside(&graph.graph);
                }
                done
            }
            Err(e) => Ok(Err(e)),
        }
    }

    fn free_graph(&mut self, graph: u64) -> Answer<()> {
        self.count_call()?;
        Ok(self.graph(graph).map(|found| {
            self.recorded -= found.size;
            self.graphs.remove(&graph);
        }))
    }
}
