//! attack: names itself so that its files land elsewhere
//! expect: compile-error

#![crate_name = "../../../../../../tmp/terrarium-escape"]
pub fn f() {}
