//! attack: twenty-five thousand references in one type
//! expect: compile-error

pub type T = «25000 × &'static »u8;
pub fn f(_: T) {}
