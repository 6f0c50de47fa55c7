//! attack: an allocator whose memory lies outside of memory
//! expect: trap
//! input: abc

use terrarium_sdk::{Function, Result, export_function};

struct Edge;

unsafe impl std::alloc::GlobalAlloc for Edge {
    unsafe fn alloc(&self, _: std::alloc::Layout) -> *mut u8 {
        (usize::MAX - 15) as *mut u8
    }
    unsafe fn dealloc(&self, _: *mut u8, _: std::alloc::Layout) {}
}

#[global_allocator]
static ALLOCATOR: Edge = Edge;

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, _input: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![1; 64])
    }
}

export_function!(Guest, own_allocator);
