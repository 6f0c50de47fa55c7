//! attack: a constant function that calls itself for ever
//! expect: compile-error

const fn f(n: u64) -> u64 {
    1 + f(n + 1)
}
pub static S: u64 = f(0);
