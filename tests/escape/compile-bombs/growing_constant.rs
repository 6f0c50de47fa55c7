//! attack: a constant that doubles an array in each step
//! expect: compile-error

const fn grow<const N: usize>(from: [u64; N]) -> usize {
    let held = [from; 64];
    held.len()
}
pub static S: [usize; 2] = [grow([1u64; 1 << 22]), grow([2u64; 1 << 23])];
