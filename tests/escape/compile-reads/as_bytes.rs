//! attack: reads a file of the user as bytes
//! expect: compile-error
//! says: os error

pub const S: &[u8] = include_bytes!("«secret»");
