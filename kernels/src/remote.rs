//! A device in another process: what its owner is asked, and the graph that
//! lives there.
//!
//! This side keeps a table of its own without memory, so that every refusal
//! (handles, shapes, quotas, aliasing) is found here, with the same words and
//! for nothing. The owner runs the same table and validator again and trusts
//! none of it; both count handles alike, and a difference loses the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::fail;
use crate::{DType, Error, Op, TensorId};

/// What the owner of a device is asked, transfers aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Call {
    /// As [`crate::Device::alloc`]: answered by the handle's bits.
    Alloc { dtype: DType, shape: Vec<u32> },
    /// As [`crate::Device::view`]: answered by the handle's bits.
    View { of: TensorId, offset: u64, shape: Vec<u32> },
    /// As [`crate::Device::free`].
    Free { id: TensorId },
    /// As [`crate::Device::prepare`]: answered by a number for the graph.
    Record { ops: Vec<Op> },
    /// As [`crate::Device::run`].
    Run { graph: u64 },
    /// The graph is not run any more.
    Forget { graph: u64 },
    /// As [`crate::Device::mark_secret`].
    MarkSecret { id: TensorId },
    /// As [`crate::Device::forget_secrets`].
    ForgetSecrets,
    /// As [`crate::Device::reset`]; graphs are forgotten.
    Reset,
}

/// The way to the owner of a device. After an error with the code
/// `DeviceLost` every later call must fail with it too.
pub trait Remote: Send {
    /// As [`crate::Device::kind`] of the device there.
    fn kind(&self) -> String;

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The owner's, or `DeviceLost`.
    fn call(&mut self, call: &Call) -> Result<u64, Error>;

    /// Writes words (the bits of `f32` values, or of `i32` ones) at element
    /// `offset`.
    ///
    /// # Errors
    /// As [`Remote::call`].
    fn upload(&mut self, id: TensorId, ints: bool, offset: u64, words: &[u32]) -> Result<(), Error>;

    /// Reads words from element `offset` on.
    ///
    /// # Errors
    /// As [`Remote::call`].
    fn download(&mut self, id: TensorId, ints: bool, offset: u64, words: &mut [u32]) -> Result<(), Error>;
}

/// The way, shared by a device and its graphs.
#[derive(Clone)]
pub(crate) struct Line(Arc<Mutex<State>>);

struct State {
    way: Box<dyn Remote>,
    /// Graphs that were dropped here and are not forgotten there yet.
    dropped: Vec<u64>,
    lost: Option<String>,
}

impl Line {
    pub fn new(way: Box<dyn Remote>) -> Line {
        Line(Arc::new(Mutex::new(State { way, dropped: Vec::new(), lost: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the device is lost, if it is.
    pub fn lost(&self) -> Option<String> {
        self.state().lost.clone()
    }

    pub fn kind(&self) -> String {
        self.state().way.kind()
    }

    pub fn call(&self, call: &Call) -> Result<u64, Error> {
        let mut state = self.state();
        for graph in std::mem::take(&mut state.dropped) {
            state.through(|way| way.call(&Call::Forget { graph }))?;
        }
        state.through(|way| way.call(call))
    }

    /// A call whose answer must be the handle that was given out here.
    pub fn expect(&self, call: &Call, id: TensorId) -> Result<(), Error> {
        if self.call(call)? == id.to_bits() {
            return Ok(());
        }
        let reason = "the device's owner counts handles in another way";
        self.state().lost = Some(reason.into());
        fail!(DeviceLost, "{reason}")
    }

    pub fn upload(&self, id: TensorId, ints: bool, offset: u64, words: &[u32]) -> Result<(), Error> {
        self.state().through(|way| way.upload(id, ints, offset, words))
    }

    pub fn download(&self, id: TensorId, ints: bool, offset: u64, words: &mut [u32]) -> Result<(), Error> {
        self.state().through(|way| way.download(id, ints, offset, words))
    }
}

impl State {
    /// Over the way, unless the device is lost.
    fn through<T>(&mut self, ask: impl FnOnce(&mut dyn Remote) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(reason) = &self.lost {
            return fail!(DeviceLost, "{reason}");
        }
        let answer = ask(&mut *self.way);
        if let Err(Error::DeviceLost { detail, .. }) = &answer {
            self.lost = Some(detail.clone());
        }
        answer
    }
}

/// A graph that was recorded there. Forgotten with the next call after its
/// end here.
pub(crate) struct Recorded {
    pub line: Line,
    pub graph: u64,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Recorded").field(&self.graph).finish()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.line.state().dropped.push(self.graph);
    }
}
