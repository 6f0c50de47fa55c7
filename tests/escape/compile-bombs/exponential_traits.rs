//! attack: a bound that needs two of the next, twenty-eight times
//! expect: compile-error

«28 × pub struct S#;
»pub struct S28;
pub trait A<T> {}
«27 × impl<T> A<T> for S# where [T; 1]: B<S#>, (T, T): B<S#> {}
»pub trait B<T> {}
«27 × impl<T> B<S#> for [T; 1] where S27: A<(T, T)> {}
impl<T> B<S#> for (T, T) where S27: A<[T; 1]> {}
»fn need<T: A<u8>>(_: T) {}
pub fn f() {
    need(S0)
}
