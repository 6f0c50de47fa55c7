//! attack: reads a device of random numbers, so that no two builds are the same
//! expect: compile-error
//! says: os error

pub const S: &[u8] = include_bytes!("/dev/urandom");
