//! One allocation of 4-byte elements, aligned to a cache line and zeroed: of
//! this process, or on a card.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::cuda::{Address, Driver};

/// Alignment of every allocation, in bytes.
const ALIGN: usize = 64;

/// Where a table's storages lie.
#[derive(Clone)]
pub(crate) enum Memory {
    /// In this process.
    Host,
    /// On a card: the addresses mean nothing here, and only the CUDA backend
    /// uses them.
    Card(Arc<Driver>),
}

/// Memory of a fixed number of 4-byte elements. The element type is chosen by
/// whoever reads: both `f32` and `i32` accept every bit pattern.
pub(crate) struct Storage {
    base: NonNull<u32>,
    layout: Layout,
    memory: Memory,
}

// SAFETY: a `Storage` owns its allocation alone, as a `Vec` does; the pointer
// is not tied to the thread that made it.
unsafe impl Send for Storage {}
// SAFETY: `&Storage` only hands out the base pointer; whoever dereferences it
// states why no data race is possible (see `Table::f32` and `Table::f32_mut`).
unsafe impl Sync for Storage {}

impl Storage {
    /// `elements` zeros, or `None` where the machine has no such memory.
    pub fn zeroed(elements: usize, memory: &Memory) -> Option<Storage> {
        let bytes = elements.checked_mul(4)?;
        if bytes == 0 {
            return None;
        }
        let layout = Layout::from_size_align(bytes, ALIGN).ok()?;
        let base = match memory {
            // SAFETY: the layout has a non-zero size (checked above).
            Memory::Host => unsafe { alloc_zeroed(layout) }.cast::<u32>(),
            Memory::Card(driver) => {
                std::ptr::without_provenance_mut(usize::try_from(driver.allocate(bytes)?).ok()?)
            }
        };
        Some(Storage { base: NonNull::new(base)?, layout, memory: memory.clone() })
    }

    /// Elements in the allocation.
    pub fn len(&self) -> usize {
        self.layout.size() / 4
    }

    /// Sets every element to zero.
    pub fn clear(&mut self) {
        match &self.memory {
            // SAFETY: `base` is the start of `len` initialised elements, and
            // `&mut self` means that nobody else uses them; a test reads them
            // back.
            Memory::Host => unsafe { std::ptr::write_bytes(self.base.as_ptr(), 0, self.len()) },
            // A failure means a lost card: nothing can be read from it again.
            Memory::Card(driver) => {
                let _ = driver.zero(self.address(), self.layout.size());
            }
        }
    }

    fn address(&self) -> Address {
        self.base.addr().get() as Address
    }

    /// Address of the first element.
    pub fn base(&self) -> *mut u32 {
        self.base.as_ptr()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        match &self.memory {
            // SAFETY: `base` came from `alloc_zeroed` with this very layout,
            // and is released once, here.
            Memory::Host => unsafe { dealloc(self.base.as_ptr().cast::<u8>(), self.layout) },
            Memory::Card(driver) => driver.free(self.address()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_aligned_and_zeroed_and_refuses_the_impossible() {
        let storage = Storage::zeroed(1000, &Memory::Host).unwrap();
        assert_eq!(storage.len(), 1000);
        assert_eq!(storage.base() as usize % ALIGN, 0);
        // SAFETY: 1000 initialised elements, owned here.
        let bits = unsafe { std::slice::from_raw_parts(storage.base(), 1000) };
        assert!(bits.iter().all(|&b| b == 0));
        assert!(Storage::zeroed(0, &Memory::Host).is_none());
        assert!(Storage::zeroed(usize::MAX / 2, &Memory::Host).is_none());
    }
}
