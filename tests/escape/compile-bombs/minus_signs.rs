//! attack: a hundred thousand minus signs
//! expect: compile-error

pub fn f() -> i32 {
    «100000 × -»1
}
