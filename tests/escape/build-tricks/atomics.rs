//! attack: asks for shared memory
//! expect: compile-error

#[target_feature(enable = "atomics")]
#[unsafe(no_mangle)]
pub unsafe fn wait(p: *mut i32) -> i32 {
    unsafe { core::arch::wasm32::memory_atomic_wait32(p, 0, -1) }
}
