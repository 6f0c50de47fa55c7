//! attack: a static of 200 MiB
//! expect: rejected | compile-error

#[unsafe(no_mangle)]
pub static BIG: [u8; 200 << 20] = [7; 200 << 20];
