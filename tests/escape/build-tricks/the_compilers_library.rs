//! attack: links the library that procedural macros use
//! expect: rejected

extern crate proc_macro;
pub fn f() -> usize {
    "fn x() {}".parse::<proc_macro::TokenStream>().unwrap().into_iter().count()
}
