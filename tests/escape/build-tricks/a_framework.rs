//! attack: asks for kinds of libraries of other systems
//! expect: compile-error

#[link(name = "Foundation", kind = "framework")]
unsafe extern "C" {}
#[link(name = "kernel32", kind = "raw-dylib")]
unsafe extern "C" {
    fn ExitProcess(code: u32);
}
pub fn f() {
    unsafe { ExitProcess(1) }
}
