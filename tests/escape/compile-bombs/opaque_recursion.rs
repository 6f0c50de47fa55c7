//! attack: a function that returns a type made of its own
//! expect: compile-error

pub fn f() -> impl Sized {
    (f(), f())
}
