//! attack: a literal that doubles thirty times
//! expect: compile-error | deadline

macro_rules! double {
    ($s:expr,) => { $s };
    ($s:expr, $first:tt $($rest:tt)*) => { double!(concat!($s, $s), $($rest)*) };
}
pub const S: &str = double!("0123456789abcdef", «30 × x »);
