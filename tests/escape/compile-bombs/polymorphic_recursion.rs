//! attack: a function that needs itself for a larger type
//! expect: compile-error | deadline

fn f<T: Clone>(t: T, n: u32) -> usize {
    if n == 0 { std::mem::size_of_val(&t) } else { f((t.clone(), t), n - 1) }
}
#[unsafe(no_mangle)]
pub extern "C" fn g(n: u32) -> usize {
    f(1u8, n)
}
