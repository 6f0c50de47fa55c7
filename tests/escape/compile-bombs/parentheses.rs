//! attack: a hundred thousand parentheses
//! expect: compile-error

pub fn f() -> u32 {
    «100000 × (»1«100000 × )»
}
