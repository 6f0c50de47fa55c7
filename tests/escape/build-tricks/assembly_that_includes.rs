//! attack: includes a file through assembly
//! expect: compile-error

use std::arch::global_asm;
global_asm!(".incbin \"/etc/passwd\"");
pub fn f() {}
