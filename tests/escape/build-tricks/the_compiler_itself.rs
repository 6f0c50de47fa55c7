//! attack: links the compiler into itself
//! expect: compile-error

#![feature(rustc_private)]
extern crate rustc_driver;
pub fn f() {}
