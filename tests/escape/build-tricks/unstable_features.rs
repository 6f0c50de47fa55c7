//! attack: switches on features that are not stable
//! expect: compile-error
//! says: may not be used on the

#![feature(asm_experimental_arch, start, rustc_attrs, custom_inner_attributes)]
pub fn f() {}
