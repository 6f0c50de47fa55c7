//! attack: asks for the processor that it is compiled on
//! expect: rejected

#[cfg(target_arch = "x86_64")]
compile_error!("native");
#[target_feature(enable = "relaxed-simd")]
#[unsafe(no_mangle)]
pub fn call(a: i32, _b: i32) -> i32 {
    use core::arch::wasm32::*;
    let x = f32x4_relaxed_madd(f32x4_splat(a as f32), f32x4_splat(2.0), f32x4_splat(0.1));
    f32x4_extract_lane::<1>(x) as i32
}
