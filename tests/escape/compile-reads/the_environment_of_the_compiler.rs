//! attack: reads the compiler's environment where the kernel shows it
//! expect: compile-error
//! says: ermission denied

pub const S: &[u8] = include_bytes!("/proc/self/environ");
