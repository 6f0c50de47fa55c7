//! One allocation of elements of one width, aligned to a cache line and
//! zeroed: of this process, or on a card.

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
    /// In another process: there is nothing here but numbers.
    Elsewhere,
}

/// Memory of a fixed number of elements of `width` bytes. The element type is
/// chosen by whoever reads: `f32`, `i32` and the bits of a bfloat16 accept
/// every bit pattern.
pub(crate) struct Storage {
    base: NonNull<u8>,
    layout: Layout,
    width: usize,
    memory: Memory,
}

// SAFETY: a `Storage` owns its allocation alone, as a `Vec` does; the pointer
// is not tied to the thread that made it.
unsafe impl Send for Storage {}
// SAFETY: `&Storage` only hands out the base pointer; whoever dereferences it
// states why no data race is possible (see `Table::f32` and `Table::f32_mut`).
unsafe impl Sync for Storage {}

impl Storage {
    /// `elements` zeros of `width` bytes (2 or 4), or `None` where the machine
    /// has no such memory.
    pub fn zeroed(elements: usize, width: usize, memory: &Memory) -> Option<Storage> {
        let bytes = elements.checked_mul(width)?;
        if bytes == 0 {
            return None;
        }
        let layout = Layout::from_size_align(bytes, ALIGN).ok()?;
        let base = match memory {
            // SAFETY: the layout has a non-zero size (checked above).
            Memory::Host => unsafe { alloc_zeroed(layout) },
            Memory::Elsewhere => std::ptr::without_provenance_mut(ALIGN),
            Memory::Card(driver) => {
                std::ptr::without_provenance_mut(usize::try_from(driver.allocate(bytes)?).ok()?)
            }
        };
        Some(Storage { base: NonNull::new(base)?, layout, width, memory: memory.clone() })
    }

    /// Elements in the allocation.
    pub fn len(&self) -> usize {
        self.layout.size() / self.width
    }

    /// Bytes of an element.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Sets every element to zero.
    pub fn clear(&mut self) {
        match &self.memory {
            // SAFETY: `base` is the start of as many initialised bytes, and
            // `&mut self` means that nobody else uses them; a test reads them
            // back.
            Memory::Host => unsafe { std::ptr::write_bytes(self.base.as_ptr(), 0, self.layout.size()) },
            Memory::Elsewhere => {}
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
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        match &self.memory {
            // SAFETY: `base` came from `alloc_zeroed` with this very layout,
            // and is released once, here.
            Memory::Host => unsafe { dealloc(self.base.as_ptr(), self.layout) },
            Memory::Elsewhere => {}
            Memory::Card(driver) => driver.free(self.address()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_aligned_and_zeroed_and_refuses_the_impossible() {
        let storage = Storage::zeroed(1000, 4, &Memory::Host).unwrap();
        assert_eq!(storage.len(), 1000);
        assert_eq!(storage.base() as usize % ALIGN, 0);
        // SAFETY: 4000 initialised bytes, owned here.
        let bits = unsafe { std::slice::from_raw_parts(storage.base(), 4000) };
        assert!(bits.iter().all(|&b| b == 0));
        assert!(Storage::zeroed(0, 4, &Memory::Host).is_none());
        assert!(Storage::zeroed(usize::MAX / 2, 4, &Memory::Host).is_none());
        assert_eq!(Storage::zeroed(1000, 2, &Memory::Host).unwrap().len(), 1000);
    }
}
