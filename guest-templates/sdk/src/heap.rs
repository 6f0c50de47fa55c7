//! Where the first allocations of a `function` lie.
//!
//! The standard allocator asks for a page of memory at the first allocation of
//! each evaluation, and touches both its ends. That is half of the time of a
//! small call, most of it the host's kernel's. [`Heap`] begins in memory that is
//! there from the start.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};

/// Bytes before the standard allocator takes over.
const ROOM: usize = 16 << 10;
/// Alignment of the first of them; what asks for more goes elsewhere.
const ALIGN: usize = 16;

#[repr(align(16))]
struct Arena(UnsafeCell<[u8; ROOM]>);

/// A global allocator: the first 16 KiB by moving a mark, which moves back for
/// what was allocated last, and the standard one for everything else.
/// [`export_function!`](crate::export_function) installs one.
pub struct Heap {
    used: Cell<usize>,
    arena: Arena,
}

// SAFETY: WebAssembly here has one thread (the gate refuses atomics), so no two
// calls overlap.
#[cfg(target_arch = "wasm32")]
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { used: Cell::new(0), arena: Arena(UnsafeCell::new([0; ROOM])) }
    }

    /// Where in the arena it lies, if it does.
    fn offset(&self, at: *mut u8) -> Option<usize> {
        let offset = at.addr().wrapping_sub(self.arena.0.get().addr());
        (offset < ROOM).then_some(offset)
    }

    /// Whether it is the block below the mark.
    fn is_last(&self, offset: usize, size: usize) -> bool {
        offset + size == self.used.get()
    }
}

// SAFETY: blocks in the arena are between 0 and the mark, which only moves up
// over a new block, or with the end of the last one: they do not overlap, and
// stay inside. All others are the standard allocator's, and given back to it.
// A test below tries long sequences of all three.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.used.get().next_multiple_of(layout.align());
        if layout.align() <= ALIGN && start <= ROOM && layout.size() <= ROOM - start {
            self.used.set(start + layout.size());
            return self.arena.0.get().cast::<u8>().wrapping_add(start);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match self.offset(at) {
            Some(offset) if self.is_last(offset, layout.size()) => self.used.set(offset),
            Some(_) => {}
            // SAFETY: it came from there.
            None => unsafe { System.dealloc(at, layout) },
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(at) else {
            // SAFETY: it came from there; the caller's promise.
            return unsafe { System.realloc(at, layout, size) };
        };
        if self.is_last(offset, layout.size()) && size <= ROOM - offset {
            self.used.set(offset + size);
            return at;
        }
        // SAFETY: a size that the caller promises to be valid, and as many
        // bytes as both blocks have.
        unsafe {
            let to = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !to.is_null() {
                to.copy_from_nonoverlapping(at, layout.size().min(size));
                self.dealloc(at, layout);
            }
            to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Block {
        at: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl Block {
        fn fill(&self) {
            // SAFETY: a block of this size that the test owns.
            unsafe { self.at.write_bytes(self.mark, self.layout.size()) };
        }

        fn check(&self) {
            assert_eq!(self.at.addr() % self.layout.align(), 0);
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) };
            assert!(bytes.iter().all(|&byte| byte == self.mark));
        }
    }

    /// Thousands of blocks that come, grow, shrink and go, most of them small:
    /// none loses what was written to it.
    #[test]
    fn blocks_keep_their_content() {
        let heap = Heap::new();
        let (mut live, mut state, mut inside) = (Vec::<Block>::new(), 1u64, 0);
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for step in 0..20_000 {
            let size = 1 + random(if step % 50 == 0 { 40_000 } else { 300 });
            let mark = step as u8;
            match random(3) {
                0 => {
                    let layout = Layout::from_size_align(size, 1 << random(7)).unwrap();
                    // SAFETY: the size is not 0.
                    let at = unsafe { heap.alloc(layout) };
                    inside += usize::from(heap.offset(at).is_some());
                    live.push(Block { at, layout, mark });
                }
                1 if !live.is_empty() => {
                    // The last one more often than the others.
                    let block = live.swap_remove(random(live.len()).max(random(live.len())));
                    block.check();
                    // SAFETY: it came from `heap` with this layout, and is gone.
                    unsafe { heap.dealloc(block.at, block.layout) };
                    continue;
                }
                2 if !live.is_empty() => {
                    let block = live.pop().unwrap();
                    block.check();
                    // SAFETY: as above; the size is not 0.
                    let at = unsafe { heap.realloc(block.at, block.layout, size) };
                    let layout = Layout::from_size_align(size, block.layout.align()).unwrap();
                    let kept = size.min(block.layout.size());
                    // SAFETY: a block of at least so many bytes.
                    let bytes = unsafe { std::slice::from_raw_parts(at, kept) };
                    assert!(bytes.iter().all(|&byte| byte == block.mark));
                    live.push(Block { at, layout, mark });
                }
                _ => continue,
            }
            live.last().unwrap().fill();
        }
        assert!(inside > 100 && heap.used.get() <= ROOM);
        for block in live {
            block.check();
            // SAFETY: as above.
            unsafe { heap.dealloc(block.at, block.layout) };
        }
    }

    #[test]
    fn what_was_allocated_last_gives_its_room_back() {
        let heap = Heap::new();
        let layout = Layout::from_size_align(ROOM / 2 + 1, ALIGN).unwrap();
        for _ in 0..10 {
            // SAFETY: a size above 0; given back with the same layout.
            unsafe {
                let at = heap.alloc(layout);
                assert_eq!(heap.offset(at), Some(0));
                heap.dealloc(at, layout);
            }
        }
    }
}
