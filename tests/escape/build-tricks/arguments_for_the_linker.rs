//! attack: gives the linker arguments of its own
//! expect: compile-error

#![feature(link_args)]
#[link_args = "--import-memory --export-all"]
unsafe extern "C" {}
