//! attack: reads a file of the user into a comment
//! expect: compile-error
//! says: ermission denied

#[doc = include_str!("«secret»")]
pub fn f() {}
