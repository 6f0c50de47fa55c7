//! attack: reads the list of users into a constant
//! expect: compile-error
//! says: ermission denied

pub const S: &str = include_str!("/etc/passwd");
