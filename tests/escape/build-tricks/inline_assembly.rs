//! attack: writes instructions of its own
//! expect: compile-error

pub fn f() {
    unsafe { std::arch::asm!("memory.grow 0") };
}
