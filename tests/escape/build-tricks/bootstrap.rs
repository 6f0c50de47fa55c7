//! attack: asks the compiler to treat itself as a nightly one
//! expect: compile-error
//! says: may not be used on the

#![cfg_attr(all(), feature(rustc_attrs))]
// cargo:rustc-env=RUSTC_BOOTSTRAP=1
pub const B: &str = env!("RUSTC_BOOTSTRAP");
