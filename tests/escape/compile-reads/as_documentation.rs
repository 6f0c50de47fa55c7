//! attack: reads a file of the user into a comment
//! expect: compile-error
//! says: os error

#[doc = include_str!("«secret»")]
pub fn f() {}
