//! attack: an array whose size overflows
//! expect: compile-error

#[unsafe(no_mangle)]
#[allow(improper_ctypes_definitions)]
pub extern "C" fn f() -> [[[[u8; 1 << 20]; 1 << 20]; 1 << 20]; 1 << 20] {
    [[[[0; 1 << 20]; 1 << 20]; 1 << 20]; 1 << 20]
}
