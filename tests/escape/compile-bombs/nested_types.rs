//! attack: thirty thousand references in one type
//! expect: compile-error

pub type T = «60000 × &'static »u8;
pub fn f(_: T) {}
