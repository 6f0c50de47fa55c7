//! attack: reads from the network
//! expect: compile-error

pub const S: &str = include_str!("http://127.0.0.1:«port»/");
#[path = "//127.0.0.1:«port»/x.rs"]
mod x;
