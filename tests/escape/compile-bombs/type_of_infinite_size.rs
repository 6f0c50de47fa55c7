//! attack: a type that contains itself
//! expect: compile-error

pub struct S {
    a: S,
    b: [S; 1 << 20],
}
