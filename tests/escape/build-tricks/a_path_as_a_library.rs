//! attack: links a file by a path that leads upwards
//! expect: compile-error

#[link(name = "../../../../../../etc/passwd", kind = "dylib")]
unsafe extern "C" {
    fn x();
}
#[unsafe(no_mangle)]
pub extern "C" fn g() {
    unsafe { x() }
}
