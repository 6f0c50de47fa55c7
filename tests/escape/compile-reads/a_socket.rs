//! attack: opens a socket by its name
//! expect: compile-error

pub const S: &[u8] = include_bytes!("/run/docker.sock");
pub const T: &[u8] = include_bytes!("/dev/tcp/127.0.0.1/«port»");
