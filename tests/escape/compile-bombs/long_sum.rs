//! attack: a sum of thirty thousand terms
//! expect: compile-error

pub fn f(x: u64) -> u64 {
    x«30000 ×  + x»
}
#[unsafe(no_mangle)]
pub extern "C" fn g(x: u64) -> u64 {
    f(x)
}
