//! What the validator makes and a backend runs.

use std::time::Duration;

use crate::TensorId;
use crate::account::{self, AccountLine};
use crate::cuda::Captured;
use crate::remote::Recorded;
use crate::step::Step;

/// A validated, costed list of operations, bound to the device and tensors it
/// was prepared for.
#[derive(Debug)]
pub struct Graph {
    pub(crate) device: u64,
    pub(crate) steps: Vec<Step>,
    /// Fuel of each of the steps.
    pub(crate) fuels: Vec<u64>,
    pub(crate) handles: Vec<TensorId>,
    /// Storages that each of the steps reads and writes.
    pub(crate) flows: Vec<Flow>,
    /// Its twin, where the device is in another process.
    pub(crate) recorded: Option<Recorded>,
    /// Its twin on a card.
    pub(crate) captured: Captured,
}

/// Which storages a step reads and writes, by their numbers in the table.
#[derive(Debug)]
pub(crate) struct Flow {
    pub reads: Box<[u32]>,
    pub writes: Box<[u32]>,
}

/// One line of [`Graph::profile`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProfileLine {
    /// Name of the operation, as in [`crate::Op::name`].
    pub name: &'static str,
    /// Times that it occurs.
    pub count: u64,
    /// Device fuel of all of them.
    pub cost: u64,
}

/// One line of [`crate::Device::run_timed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpTime {
    /// Name of the operation, as in [`crate::Op::name`].
    pub name: &'static str,
    /// Times that it occurs.
    pub count: u64,
    /// What all of them took.
    pub time: Duration,
}

impl Graph {
    /// Device fuel of one run; see [`mod@crate::cost`].
    pub fn cost(&self) -> u64 {
        self.fuels.iter().fold(0, |sum, fuel| sum.saturating_add(*fuel))
    }

    /// Number of operations.
    pub fn ops(&self) -> usize {
        self.steps.len()
    }

    /// Device fuel of each of the operations, in order.
    pub fn costs(&self) -> &[u64] {
        &self.fuels
    }

    /// Device fuel of the dearest single operation.
    pub fn largest_cost(&self) -> u64 {
        self.fuels.iter().copied().max().unwrap_or(0)
    }

    /// Where the fuel goes, the dearest kind of operation first.
    pub fn profile(&self) -> Vec<ProfileLine> {
        let mut lines: Vec<ProfileLine> = Vec::new();
        for (step, &cost) in self.steps.iter().zip(&self.fuels) {
            let name = step.name();
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => {
                    line.count += 1;
                    line.cost = line.cost.saturating_add(cost);
                }
                None => lines.push(ProfileLine { name, count: 1, cost }),
            }
        }
        lines.sort_by(|a, b| b.cost.cmp(&a.cost).then(a.name.cmp(b.name)));
        lines
    }

    /// What each operation has to do at least, in order: flops of matrix
    /// products, and bytes of operands in their element types, each moved once
    /// and an accumulated one twice.
    pub fn account(&self) -> Vec<AccountLine> {
        let line = |step: &Step| {
            let (flops, bytes) = account::of(step);
            AccountLine { name: step.name(), flops, bytes }
        };
        self.steps.iter().map(line).collect()
    }

    /// The times of the steps, in order, summed by kind.
    pub(crate) fn times(&self, times: &[Duration]) -> Vec<OpTime> {
        let mut lines: Vec<OpTime> = Vec::new();
        for (step, &time) in self.steps.iter().zip(times) {
            let name = step.name();
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => {
                    line.count += 1;
                    line.time += time;
                }
                None => lines.push(OpTime { name, count: 1, time }),
            }
        }
        lines.sort_by(|a, b| b.time.cmp(&a.time).then(a.name.cmp(b.name)));
        lines
    }
}
