//! attack: reads a device that never ends
//! expect: compile-error
//! says: os error

pub const S: &[u8] = include_bytes!("/dev/zero");
