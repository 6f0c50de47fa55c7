//! attack: uses a crate that a package manager would fetch
//! expect: compile-error

use libc::system;
pub fn f() {
    unsafe { system(c"touch /tmp/terrarium-escape".as_ptr()) };
}
