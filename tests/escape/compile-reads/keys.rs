//! attack: reads keys where people keep them
//! expect: compile-error

pub const A: &str = include_str!("/root/.ssh/id_rsa");
pub const B: &str = include_str!("/root/.aws/credentials");
pub const C: &str = include_str!("/root/.cargo/credentials.toml");
