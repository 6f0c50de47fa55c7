//! attack: reads the addresses of the compiler's memory
//! expect: compile-error
//! says: os error

pub const S: &str = include_str!("/proc/self/maps");
