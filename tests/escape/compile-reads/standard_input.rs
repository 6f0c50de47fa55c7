//! attack: waits for what somebody types
//! expect: compile-error

pub const S: &str = include_str!("/dev/stdin");
