//! attack: embeds a file as instructions for a debugger
//! expect: compile-error

#![debugger_visualizer(natvis_file = "/etc/passwd")]
pub fn f() {}
