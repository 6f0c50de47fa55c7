//! attack: a macro that doubles its input
//! expect: deadline | compile-error

#![recursion_limit = "1000"]
macro_rules! d {
    ($($t:tt)*) => { d!($($t)* $($t)*); };
}
d!(x x);
