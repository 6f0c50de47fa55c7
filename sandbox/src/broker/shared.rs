//! Memory that a broker and a client both see.
//!
//! The broker makes it and seals its size, so that no one can shrink it under
//! a reader (which would be SIGBUS). The other side may write at any moment:
//! words are read and written one by one, as atomics, and what was read is
//! private from then on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};

use super::protocol::{SHARED_BYTES, SHARED_WORDS};

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

pub(super) struct Shared(MmapRaw);

impl Shared {
    /// Fresh memory, zeroed, and the descriptor to send.
    pub fn make() -> io::Result<(Shared, OwnedFd)> {
        let file = memfd_create("terrarium-broker", MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING))?;
        ftruncate(&file, SHARED_BYTES as u64)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok((Self::map(&file)?, file))
    }

    /// Memory of the other side; refused unless its size is fixed.
    pub fn open(file: &OwnedFd) -> io::Result<Shared> {
        if !fcntl_get_seals(file)?.contains(SEALS) {
            return Err(io::Error::other("the shared memory is not sealed"));
        }
        if rustix::fs::fstat(file)?.st_size != SHARED_BYTES as i64 {
            return Err(io::Error::other("the shared memory has another size"));
        }
        Self::map(file)
    }

    fn map(file: &OwnedFd) -> io::Result<Shared> {
        MmapOptions::new().len(SHARED_BYTES).map_raw(&file.as_fd()).map(Shared)
    }

    fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is SHARED_BYTES long, page-aligned, and lives as
        // long as `self`; the file's size is sealed, so every page exists. The
        // other process may write, hence atomics. Tested by clients that write
        // while the broker reads, and that try to cut the file.
        unsafe { std::slice::from_raw_parts(self.0.as_mut_ptr().cast(), SHARED_WORDS) }
    }

    /// The first words, as many as `into` has room for.
    pub fn read(&self, into: &mut [u32]) {
        for (to, from) in into.iter_mut().zip(self.words()) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    /// Sets the first words.
    pub fn write(&self, from: &[u32]) {
        for (to, from) in self.words().iter().zip(from) {
            to.store(*from, Ordering::Relaxed);
        }
    }
}
