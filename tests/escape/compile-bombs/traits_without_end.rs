//! attack: a bound that needs itself for a larger type
//! expect: compile-error
//! says: overflow

#![recursion_limit = "2000"]
pub trait Endless {
    fn go(&self);
}
pub struct Wrap<T>(T);
impl<T> Endless for Wrap<T>
where
    Wrap<Wrap<T>>: Endless,
{
    fn go(&self) {}
}
pub fn f(w: &Wrap<u8>) {
    w.go()
}
