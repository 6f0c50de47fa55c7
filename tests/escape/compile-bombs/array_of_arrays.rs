//! attack: an array whose size overflows
//! expect: compile-error

pub fn f() -> [[[[u8; 1 << 20]; 1 << 20]; 1 << 20]; 1 << 20] {
    [[[[0; 1 << 20]; 1 << 20]; 1 << 20]; 1 << 20]
}
