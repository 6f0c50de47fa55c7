//! Counts its calls in statics, and looks for what it once left in its heap.

use terrarium_sdk::{Function, Result, export_function};

#[derive(Default)]
struct Guest;

static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
static mut PAGES: [u8; 200_000] = [0; 200_000];

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let calls = 1 + CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pages = &raw mut PAGES;
        // SAFETY: one thread, and no other reference.
        let pages = unsafe { &mut *pages };
        let dirty = pages.iter().filter(|b| **b != 0).count() as u32;
        pages.fill(0xa5);
        // Fresh pages of linear memory, beyond everything in use.
        let page = std::arch::wasm32::memory_grow(0, 16);
        // SAFETY: the 16 pages that were just added.
        let fresh = unsafe { std::slice::from_raw_parts_mut((page << 16) as *mut u8, 16 << 16) };
        let left = fresh.iter().filter(|b| **b != 0).count() as u32;
        fresh.fill(0x5a);
        let _ = input;
        Ok([calls, dirty, left].iter().flat_map(|n| n.to_le_bytes()).collect())
    }
}

export_function!(Guest);
