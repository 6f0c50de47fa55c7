//! attack: an allocator that gives everybody the same memory
//! expect: finished | trap
//! input: abc
//! limits: fuel=100000000

use terrarium_sdk::{Function, Result, export_function};

struct Same;
static mut MEMORY: [u8; 1 << 16] = [0; 1 << 16];

unsafe impl std::alloc::GlobalAlloc for Same {
    unsafe fn alloc(&self, _: std::alloc::Layout) -> *mut u8 {
        (&raw mut MEMORY).cast()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: std::alloc::Layout) {}
}

#[global_allocator]
static ALLOCATOR: Same = Same;

#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let a = vec![input.len() as u8; 64];
        let b = vec![7u8; 64];
        Ok([a, b].concat())
    }
}

export_function!(Guest, own_allocator);
