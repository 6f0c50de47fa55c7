//! attack: a static larger than all memory
//! expect: compile-error

#[unsafe(no_mangle)]
pub static BIG: [[u8; 1 << 30]; 1 << 30] = [[7; 1 << 30]; 1 << 30];
