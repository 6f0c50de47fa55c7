//! One connection: what it asks is decoded, held against the user's quota,
//! validated by the device, and run in turns.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use terrarium_kernels::remote::Call;
use terrarium_kernels::{DType, Device, Error, ErrorCode, Graph, Op, TensorId};

use super::config::Quota;
use super::protocol::{Answer, Request, SHARED_WORDS};
use super::shared::Shared;
use super::turns::{Tenant, Turns};

/// Longest text of an error that is sent.
const MAX_DETAIL: usize = 2000;

/// A graph of a connection, and its size.
struct Recorded {
    graph: Graph,
    size: u64,
    /// Where it lets others have the device: ends of its slices.
    ends: Vec<(usize, u64)>,
}

/// A connection that has said hello.
pub(super) struct Served {
    pub tenant: Tenant,
    pub quota: Quota,
    pub turns: Arc<Turns>,
    pub device: Device,
    pub shared: Shared,
    pub slice_fuel: u64,
    graphs: BTreeMap<u64, Recorded>,
    next_graph: u64,
    recorded: u64,
    used: u64,
}

fn fail<T>(code: ErrorCode, detail: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(code, detail))
}

impl Served {
    pub fn new(
        tenant: Tenant,
        quota: Quota,
        turns: Arc<Turns>,
        device: Device,
        shared: Shared,
        slice_fuel: u64,
    ) -> Self {
        let graphs = BTreeMap::new();
        let (next_graph, recorded, used) = (1, 0, 0);
        Self { tenant, quota, turns, device, shared, slice_fuel, graphs, next_graph, recorded, used }
    }

    /// The answer to a request.
    pub fn answer(&mut self, request: Request) -> Answer {
        let done = match request {
            Request::Hello { .. } => fail(ErrorCode::InvalidArgument, "hello was said before"),
            Request::Call(call) => self.call(call),
            Request::Upload { id, ints, offset, words } => self.upload(id, ints, offset, words),
            Request::Download { id, ints, offset, words } => self.download(id, ints, offset, words),
        };
        match done {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Failed(short(error)),
        }
    }

    fn call(&mut self, call: Call) -> Result<u64, Error> {
        match call {
            Call::Alloc { dtype, shape } => {
                let elements = shape.iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)));
                // What cannot be had is refused by the device and costs little.
                let fuel = elements.saturating_mul(dtype.bytes()).min(self.quota.bytes);
                let _turn = self.turns.enter(self.tenant, self.quota.weight, fuel);
                self.device.alloc(dtype, &shape).map(TensorId::to_bits)
            }
            Call::View { of, offset, shape } => self.device.view(of, offset, &shape).map(TensorId::to_bits),
            Call::Free { id } => self.device.free(id).map(|()| 0),
            Call::Record { ops } => self.record(ops),
            Call::Run { graph } => self.run(graph),
            Call::Forget { graph } => {
                // A reset has forgotten it already where a graph outlives one;
                // no number is given twice.
                if let Some(found) = self.graphs.remove(&graph) {
                    self.recorded -= found.size;
                }
                Ok(0)
            }
            Call::MarkSecret { id } => self.device.mark_secret(id).map(|()| 0),
            Call::ForgetSecrets => {
                let fuel = self.device.usage().bytes;
                let _turn = self.turns.enter(self.tenant, self.quota.weight, fuel);
                self.device.forget_secrets();
                Ok(0)
            }
            Call::Reset => {
                self.graphs.clear();
                (self.recorded, self.used) = (0, 0);
                self.device.reset();
                Ok(0)
            }
        }
    }

    fn record(&mut self, ops: Vec<Op>) -> Result<u64, Error> {
        if self.graphs.len() as u64 >= u64::from(self.quota.graphs) {
            return fail(
                ErrorCode::Quota,
                format!("{} graphs are recorded, the most allowed", self.quota.graphs),
            );
        }
        let nodes = |op: &Op| if let Op::RowMap(map) = op { map.nodes.len() as u64 } else { 0 };
        let size = ops.len() as u64 + ops.iter().map(nodes).sum::<u64>();
        if self.recorded.saturating_add(size) > self.quota.graph_ops {
            let limit = self.quota.graph_ops;
            return fail(ErrorCode::Quota, format!("recorded graphs may have {limit} operations"));
        }
        let graph = self.device.prepare(ops)?;
        let (most, limit) = (graph.largest_cost(), self.quota.launch_fuel);
        if most > limit {
            return fail(
                ErrorCode::Quota,
                format!(
                    "an operation needs {most} device fuel, the broker allows {limit}; use smaller shapes"
                ),
            );
        }
        let ends = slices(graph.costs(), self.slice_fuel);
        let number = self.next_graph;
        self.next_graph += 1;
        self.recorded += size;
        self.graphs.insert(number, Recorded { graph, size, ends });
        Ok(number)
    }

    fn run(&mut self, number: u64) -> Result<u64, Error> {
        let Some(Recorded { graph, ends, .. }) = self.graphs.get(&number) else {
            return fail(ErrorCode::BadHandle, "no such graph, or it was forgotten");
        };
        let after = self.used.saturating_add(graph.cost());
        if after > self.quota.evaluation_fuel {
            let limit = self.quota.evaluation_fuel;
            return fail(ErrorCode::Quota, format!("the broker allows {limit} device fuel an evaluation"));
        }
        self.used = after;
        let (mut start, mut result) = (0, Ok(0));
        for &(end, fuel) in ends {
            let turn = self.turns.enter(self.tenant, self.quota.weight, fuel);
            let ran = self.device.run_part(graph, start..end);
            drop(turn);
            start = end;
            match ran {
                Ok(()) => {}
                // Everything runs, with the index clamped; the first is told.
                Err(error) if error.code() == ErrorCode::IndexRange => result = result.and(Err(error)),
                Err(error) => return Err(error),
            }
        }
        result
    }

    /// Refused before anything is allocated for it.
    fn words(&self, id: TensorId, words: u32) -> Result<(usize, DType), Error> {
        let elements = self.device.shape(id)?.iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)));
        let count = words as usize;
        if count > SHARED_WORDS || u64::from(words) > elements {
            return fail(
                ErrorCode::InvalidArgument,
                format!("{words} words leave the tensor of {elements} or the shared {SHARED_WORDS}"),
            );
        }
        Ok((count, self.device.dtype(id)?))
    }

    fn upload(&mut self, id: TensorId, ints: bool, offset: u64, words: u32) -> Result<u64, Error> {
        let (count, _) = self.words(id, words)?;
        // A copy: the client may change the memory while we read it.
        let mut copy = vec![0u32; count];
        self.shared.read(&mut copy);
        let _turn = self.turns.enter(self.tenant, self.quota.weight, 4 * count as u64);
        if ints {
            let values: Vec<i32> = copy.into_iter().map(|word| word as i32).collect();
            self.device.upload_i32(id, offset, &values)?;
        } else {
            let values: Vec<f32> = copy.into_iter().map(f32::from_bits).collect();
            self.device.upload_f32(id, offset, &values)?;
        }
        Ok(0)
    }

    fn download(&mut self, id: TensorId, ints: bool, offset: u64, words: u32) -> Result<u64, Error> {
        let (count, _) = self.words(id, words)?;
        let turn = self.turns.enter(self.tenant, self.quota.weight, 4 * count as u64);
        let copy: Vec<u32> = if ints {
            let mut values = vec![0i32; count];
            self.device.download_i32(id, offset, &mut values)?;
            values.into_iter().map(|value| value as u32).collect()
        } else {
            let mut values = vec![0f32; count];
            self.device.download_f32(id, offset, &mut values)?;
            values.into_iter().map(f32::to_bits).collect()
        };
        drop(turn);
        self.shared.write(&copy);
        Ok(0)
    }
}

/// Where a graph's operations are cut: as many as fit a slice, at least one.
fn slices(fuels: &[u64], most: u64) -> Vec<(usize, u64)> {
    let mut ends: Vec<(usize, u64)> = Vec::new();
    for (at, &fuel) in fuels.iter().enumerate() {
        match ends.last_mut() {
            Some((end, sum)) if sum.saturating_add(fuel) <= most => (*end, *sum) = (at + 1, *sum + fuel),
            _ => ends.push((at + 1, fuel)),
        }
    }
    ends
}

/// With a text that fits an answer.
fn short(error: Error) -> Error {
    match error.op() {
        _ if error.to_string().len() <= MAX_DETAIL => error,
        _ => Error::new(error.code(), crate::clean(&error.to_string(), MAX_DETAIL)),
    }
}

/// The first answer.
pub(super) fn welcome(kind: &str) -> io::Result<Vec<u8>> {
    crate::wire::frame(&Answer::Welcome { kind: kind.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_cut_where_a_slice_is_full() {
        assert_eq!(slices(&[], 10), []);
        assert_eq!(slices(&[4, 4, 4, 20, 1, 9], 10), [(2, 8), (3, 4), (4, 20), (6, 10)]);
        assert_eq!(slices(&[u64::MAX, u64::MAX], 1), [(1, u64::MAX), (2, u64::MAX)]);
    }
}
