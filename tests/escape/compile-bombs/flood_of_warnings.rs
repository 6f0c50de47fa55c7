//! attack: six thousand warnings about a program that is right
//! expect: rejected

«6000 × fn unused_#() {}
»
#[unsafe(no_mangle)]
pub extern "C" fn nothing_of_the_world() {}
