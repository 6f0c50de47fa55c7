//! attack: calls itself a procedural macro, which a compiler would run
//! expect: compile-error

#![crate_type = "proc-macro"]
extern crate proc_macro;
#[proc_macro]
pub fn m(t: proc_macro::TokenStream) -> proc_macro::TokenStream {
    std::fs::write("/tmp/terrarium-escape", "x").unwrap();
    t
}
