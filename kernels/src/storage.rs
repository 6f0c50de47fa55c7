//! One allocation of elements of one width, aligned to a cache line and
//! zeroed.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of every allocation, in bytes.
const ALIGN: usize = 64;

/// Memory of a fixed number of elements of `width` bytes. The element type is
/// chosen by whoever reads: `f32`, `i32` and the bits of a bfloat16 accept
/// every bit pattern.
pub(crate) struct Storage {
    base: NonNull<u8>,
    layout: Layout,
    width: usize,
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
    pub fn zeroed(elements: usize, width: usize) -> Option<Storage> {
        let bytes = elements.checked_mul(width)?;
        if bytes == 0 {
            return None;
        }
        let layout = Layout::from_size_align(bytes, ALIGN).ok()?;
        // SAFETY: the layout has a non-zero size (checked above).
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Storage { base, layout, width })
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
        // SAFETY: `base` is the start of as many initialised bytes, and `&mut
        // self` means that nobody else uses them; a test reads them back.
        unsafe { std::ptr::write_bytes(self.base.as_ptr(), 0, self.layout.size()) }
    }

    /// Address of the first element.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // SAFETY: `base` came from `alloc_zeroed` with this very layout, and
        // is released once, here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_aligned_and_zeroed_and_refuses_the_impossible() {
        let storage = Storage::zeroed(1000, 4).unwrap();
        assert_eq!(storage.len(), 1000);
        assert_eq!(storage.base() as usize % ALIGN, 0);
        // SAFETY: 4000 initialised bytes, owned here.
        let bits = unsafe { std::slice::from_raw_parts(storage.base(), 4000) };
        assert!(bits.iter().all(|&b| b == 0));
        assert!(Storage::zeroed(0, 4).is_none());
        assert!(Storage::zeroed(usize::MAX / 2, 4).is_none());
        assert_eq!(Storage::zeroed(1000, 2).unwrap().len(), 1000);
    }
}
