//! attack: reads a folder
//! expect: compile-error

pub const S: &[u8] = include_bytes!("/etc");
