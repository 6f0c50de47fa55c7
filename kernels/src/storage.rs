//! One allocation of elements of one width, aligned to a cache line and
//! zeroed: of this process, or on a card.

use std::sync::Arc;

use crate::cuda::{Address, Driver};
use crate::pages::{ALIGN, Pages};

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
    place: Place,
    bytes: usize,
    width: usize,
}

enum Place {
    Host(Pages),
    Card(Arc<Driver>, Address),
    Elsewhere,
}

impl Storage {
    /// `elements` zeros of `width` bytes (2 or 4), or `None` where the machine
    /// has no such memory.
    pub fn zeroed(elements: usize, width: usize, memory: &Memory) -> Option<Storage> {
        let bytes = elements.checked_mul(width)?;
        if bytes == 0 {
            return None;
        }
        let place = match memory {
            Memory::Host => Place::Host(Pages::zeroed(bytes)?),
            Memory::Card(driver) => Place::Card(driver.clone(), driver.allocate(bytes)?),
            Memory::Elsewhere => Place::Elsewhere,
        };
        Some(Storage { place, bytes, width })
    }

    /// Elements in the allocation.
    pub fn len(&self) -> usize {
        self.bytes / self.width
    }

    /// Bytes of an element.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Sets every element to zero.
    pub fn clear(&mut self) {
        match &self.place {
            // SAFETY: as many initialised bytes, and `&mut self` means that
            // nobody else uses them; a test reads them back.
            Place::Host(pages) => unsafe { pages.base().write_bytes(0, pages.bytes()) },
            // A failure means a lost card: nothing can be read from it again.
            Place::Card(driver, address) => {
                let _ = driver.zero(*address, self.bytes);
            }
            Place::Elsewhere => {}
        }
    }

    /// Address of the first element.
    pub fn base(&self) -> *mut u8 {
        match &self.place {
            Place::Host(pages) => pages.base(),
            Place::Card(_, address) => std::ptr::without_provenance_mut(*address as usize),
            Place::Elsewhere => std::ptr::without_provenance_mut(ALIGN),
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Place::Card(driver, address) = &self.place {
            driver.free(*address);
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
