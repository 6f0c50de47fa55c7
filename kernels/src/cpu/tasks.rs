//! Tasks of a step, and the outputs that they share.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::moves::Moved;
use super::team::{Team, relax};

/// Runs the tasks of one step.
#[derive(Clone, Copy)]
pub(crate) struct Split<'a> {
    /// None: the caller alone.
    pub team: Option<&'a Team>,
}

impl Split<'_> {
    /// How many run tasks.
    pub fn threads(self) -> usize {
        self.team.map_or(1, Team::threads)
    }

    /// `task(0)`, …, `task(tasks − 1)`, each once, begun in this order.
    pub fn each(self, tasks: usize, task: impl Fn(usize) + Sync) {
        match self.team {
            Some(team) if tasks > 1 => team.each(tasks, &task),
            _ => (0..tasks).for_each(task),
        }
    }
}

/// The first tasks of a round, which the others wait for.
#[derive(Default)]
pub(crate) struct Stage(AtomicUsize);

/// A task of a [`Stage`]: counted when dropped, be it done or given up.
pub(crate) struct Staged<'a>(&'a AtomicUsize);

impl Stage {
    pub fn task(&self) -> Staged<'_> {
        Staged(&self.0)
    }

    /// Until all `tasks` of the stage are over. All were begun before whoever
    /// waits, so others are at them.
    pub fn wait(&self, tasks: usize) {
        let mut looks = 0;
        while self.0.load(Acquire) < tasks {
            relax(&mut looks);
        }
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Release);
    }
}

/// An output that tasks write in parts.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    base: *mut f32,
    len: usize,
}

// SAFETY: an `Output` is an address and a length. Dereferencing is unsafe and
// its contract (disjoint ranges) is what makes sharing sound.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    pub fn new(slice: &mut [f32]) -> Output {
        Output { base: slice.as_mut_ptr(), len: slice.len() }
    }

    /// As [`Output::new`], of integers: write it by [`Output::ints`].
    pub fn new_bits(slice: &mut [i32]) -> Output {
        Output { base: slice.as_mut_ptr().cast(), len: slice.len() }
    }

    /// Elements `start..start + len` as integers; both types accept all bits.
    ///
    /// # Safety
    /// As [`Output::range`].
    ///
    /// # Panics
    /// If the range leaves the output.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn ints(&self, start: usize, len: usize) -> &mut [i32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds (checked), exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start).cast(), len) }
    }

    /// The same memory, for kernels of either type.
    pub fn moved(self) -> Moved<f32> {
        // SAFETY: what an `Output` is made of is an output of the step.
        unsafe { Moved::from_raw(self.base, self.len) }
    }

    /// # Safety
    /// `base..base + len` is memory that the step owns as an output.
    pub unsafe fn from_raw(base: *mut f32, len: usize) -> Output {
        Output { base, len }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// While the slice is alive nothing else reads or writes the range: tasks
    /// of a step take disjoint ranges.
    ///
    /// # Panics
    /// If the range leaves the output.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds (checked), exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), len) }
    }

    /// Elements `start..start + len`, to read.
    ///
    /// # Safety
    /// While the slice is alive nothing writes the range.
    ///
    /// # Panics
    /// If the range leaves the output.
    pub unsafe fn read(&self, start: usize, len: usize) -> &[f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds (checked), not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.add(start), len) }
    }

    /// Its elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Address of element `start`.
    ///
    /// # Panics
    /// If `start` leaves the output.
    pub fn at(&self, start: usize) -> *mut f32 {
        assert!(start < self.len);
        // SAFETY: in bounds (checked).
        unsafe { self.base.add(start) }
    }
}
