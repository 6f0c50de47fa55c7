//! attack: a constant of exponential depth
//! expect: deadline

const fn f(n: u32) -> u64 {
    if n < 2 { 1 } else { f(n - 1).wrapping_add(f(n - 2)) }
}
pub static S: u64 = f(60);
