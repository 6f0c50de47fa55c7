//! attack: links a file of the user
//! expect: compile-error

#[link(name = "«secret»", kind = "static", modifiers = "+verbatim,+whole-archive")]
unsafe extern "C" {}
#[unsafe(no_mangle)]
pub extern "C" fn g() {}
