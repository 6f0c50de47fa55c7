//! attack: asks for an executable instead of a module
//! expect: compile-error | rejected

#![crate_type = "bin"]
fn main() {
    println!("hello");
}
