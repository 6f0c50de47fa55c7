//! Indices out of range: clamped, counted, and reported after the run.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Error;
use crate::error::fail;
use crate::graph::Graph;

/// Index errors of a run: how many, and the first step that had one.
pub(crate) struct Faults {
    first: AtomicU32,
    count: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults { first: AtomicU32::new(u32::MAX), count: AtomicU64::new(0) }
    }
}

impl Faults {
    pub fn of(&self, step: u32) -> StepFaults<'_> {
        StepFaults { faults: self, step }
    }

    pub fn report(&self, graph: &Graph) -> Result<(), Error> {
        let (first, count) = (self.first.load(Ordering::Relaxed), self.count.load(Ordering::Relaxed));
        match graph.steps.get(first as usize) {
            None => Ok(()),
            Some(step) => {
                let error = fail!(IndexRange, "{count} indices were out of range and were clamped");
                error.map_err(|error: Error| error.at(first, step.name()))
            }
        }
    }
}

/// Where the kernels of one step report indices out of range.
pub(crate) struct StepFaults<'a> {
    faults: &'a Faults,
    step: u32,
}

impl StepFaults<'_> {
    pub fn add(&self, count: u64) {
        if count > 0 {
            self.faults.count.fetch_add(count, Ordering::Relaxed);
            self.faults.first.fetch_min(self.step, Ordering::Relaxed);
        }
    }

    /// `index` if it is in `0..bound`, else the nearest that is.
    pub fn clamp(&self, index: i32, bound: usize) -> usize {
        match usize::try_from(index) {
            Ok(index) if index < bound => index,
            Ok(_) => {
                self.add(1);
                bound - 1
            }
            Err(_) => {
                self.add(1);
                0
            }
        }
    }
}
