//! attack: asks for an executable instead of a module
//! expect: rejected

#![crate_type = "bin"]
fn main() {
    println!("hello");
}
