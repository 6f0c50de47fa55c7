//! attack: lifts the limit on recursion and uses up the stack of the compiler
//! expect: compile-error | deadline

#![recursion_limit = "4000000000"]
macro_rules! a {
    ($($t:tt)*) => { (a!(x)) };
}
pub fn f() -> u32 {
    a!()
}
