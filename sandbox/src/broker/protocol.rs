//! What goes over a broker's socket: messages as in [`crate::wire`], one
//! answer for each request. Bulk data lies in memory that the broker made,
//! sealed at its size and sent along with its first answer.

use serde::{Deserialize, Serialize};
use terrarium_kernels::{Error, TensorId, remote::Call};

/// Of this protocol; both sides must have it.
pub(super) const VERSION: u32 = 4;

/// Bytes of memory that a connection shares with the broker.
pub(super) const SHARED_BYTES: usize = 1 << 20;

/// Words of it.
pub(super) const SHARED_WORDS: usize = SHARED_BYTES / 4;

/// Largest message that a broker accepts: the longest list of operations.
pub(super) const MAX_REQUEST: usize = 16 << 20;

/// Largest answer that a client accepts.
pub(super) const MAX_ANSWER: usize = 64 << 10;

/// From a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    /// First: what the device is opened with.
    Hello { version: u32, max_bytes: u64, max_tensors: u32 },
    /// What a device is asked.
    Call(Call),
    /// The first words of the shared memory go to elements from `offset` on.
    Upload { id: TensorId, ints: bool, offset: u64, words: u32 },
    /// The other way.
    Download { id: TensorId, ints: bool, offset: u64, words: u32 },
}

/// From a broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The device is open; the shared memory comes with this.
    Welcome { kind: String },
    /// Done: a handle, or nothing (0).
    Done(u64),
    /// Not done.
    Failed(Error),
}
