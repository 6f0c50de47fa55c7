//! attack: a type that doubles forty times
//! expect: compile-error | deadline

#![type_length_limit = "100000000000"]
pub fn pair<T: Clone>(t: T) -> (T, T) {
    (t.clone(), t)
}
pub fn f() -> usize {
    let t = 1u8;
    «40 × let t = pair(t);
    »std::mem::size_of_val(&t)
}
#[unsafe(no_mangle)]
pub extern "C" fn g() -> usize {
    f()
}
