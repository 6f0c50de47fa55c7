//! attack: leaves its folder through /proc
//! expect: compile-error

pub const S: &str = include_str!("/proc/self/root/etc/passwd");
pub const T: &str = include_str!("/proc/self/cwd/../../../../etc/passwd");
