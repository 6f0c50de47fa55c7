//! attack: reads the compiler's environment where the kernel shows it
//! expect: compile-error
//! says: os error

pub const S: &[u8] = include_bytes!("/proc/self/environ");
