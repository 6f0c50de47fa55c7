//! attack: puts escape sequences and markup into what the compiler says of it
//! expect: compile-error
//! via: eval

compile_error!("\u{1b}[2J\u{1b}]0;owned\u{7}<script>alert(1)</script>\u{202e}");
const X: u32 = "\u{1b}[31m\u{9b}";
pub fn a̶‍() {}
