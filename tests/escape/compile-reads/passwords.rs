//! attack: reads the list of users into a constant
//! expect: compile-error
//! says: os error

pub const S: &str = include_str!("/etc/passwd");
