//! attack: a macro that calls itself for ever
//! expect: compile-error
//! says: recursion limit

macro_rules! a {
    ($($t:tt)*) => { a!($($t)* x); };
}
a!();
