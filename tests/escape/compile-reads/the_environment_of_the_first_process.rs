//! attack: reads the environment of the first process
//! expect: compile-error
//! says: os error

pub const S: &[u8] = include_bytes!("/proc/1/environ");
