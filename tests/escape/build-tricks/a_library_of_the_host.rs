//! attack: links the C library of the host
//! expect: compile-error

#[link(name = "c", kind = "static")]
unsafe extern "C" {
    fn getenv(name: *const u8) -> *const u8;
}
#[unsafe(no_mangle)]
pub extern "C" fn g() -> *const u8 {
    unsafe { getenv(core::ptr::null()) }
}
