//! Checks of shapes and values that several operations share.

use crate::Error;
use crate::error::fail;
use crate::step::{AttentionDims, CrossEntropyDims};
use crate::table::Tensor;

/// With `rows` still to be filled in.
pub(crate) fn attention_dims(
    out: &Tensor,
    kv_heads: u32,
    window: u32,
    scale: f32,
) -> Result<AttentionDims, Error> {
    let [batch, time, heads, dim] = rank4("out", out)?;
    let kv_heads = kv_heads as usize;
    if kv_heads == 0 || heads % kv_heads != 0 {
        return fail!(ShapeMismatch, "{kv_heads} key heads do not divide {heads} query heads");
    }
    if window as usize > time {
        return fail!(InvalidArgument, "window {window} is longer than the {time} positions; 0 sees all");
    }
    finite("scale", scale)?;
    let window = if window == 0 { time } else { window as usize };
    let dtype = out.dtype;
    Ok(AttentionDims { batch, time, heads, kv_heads, dim, window, scale, dtype, rows: [0; 3] })
}

pub(crate) fn check_lse(lse: &Tensor, dims: &AttentionDims) -> Result<(), Error> {
    let expected = [dims.batch as u32, dims.heads as u32, dims.time as u32];
    if lse.shape != expected {
        return fail!(ShapeMismatch, "lse is {:?}, and must be [B,H,T] {expected:?}", lse.shape);
    }
    Ok(())
}

pub(crate) fn cross_entropy_dims(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    lse: &Tensor,
    softcap: f32,
) -> Result<CrossEntropyDims, Error> {
    let [vocabulary, channels] = match weight.shape[..] {
        [v, c] => [v as usize, c as usize],
        _ => {
            return fail!(ShapeMismatch, "weight is {:?}, and must be [V,C]", weight.shape);
        }
    };
    same("cols of x and weight", x.cols(), channels)?;
    let rows = x.rows();
    same("elements of targets and rows of x", targets.span.len, rows)?;
    same("elements of lse and rows of x", lse.span.len, rows)?;
    non_negative("softcap", softcap)?;
    if softcap != 0.0 && !softcap.is_normal() {
        return fail!(InvalidArgument, "softcap {softcap:e} is subnormal; use 0 for none");
    }
    Ok(CrossEntropyDims { rows, channels, vocabulary, softcap, dtypes: [x.dtype, weight.dtype] })
}

pub(crate) fn matrix(name: &str, tensor: &Tensor) -> Result<[usize; 2], Error> {
    match tensor.shape[..] {
        [.., rows, cols] => Ok([rows as usize, cols as usize]),
        _ => fail!(ShapeMismatch, "{name} is {:?}, and needs a rank of 2 or more", tensor.shape),
    }
}

pub(crate) fn rank4(name: &str, tensor: &Tensor) -> Result<[usize; 4], Error> {
    match tensor.shape[..] {
        [a, b, c, d] => Ok([a as usize, b as usize, c as usize, d as usize]),
        _ => fail!(ShapeMismatch, "{name} is {:?}, and must be [B,T,H,D]", tensor.shape),
    }
}

pub(crate) fn same(what: &str, a: usize, b: usize) -> Result<(), Error> {
    if a != b {
        return fail!(ShapeMismatch, "{what} must be equal, and are {a} and {b}");
    }
    Ok(())
}

pub(crate) fn same_shape(a_name: &str, a: &Tensor, b_name: &str, b: &Tensor) -> Result<(), Error> {
    if a.shape != b.shape {
        return fail!(
            ShapeMismatch,
            "{b_name} is {:?}, and must have the shape of {a_name}, {:?}",
            b.shape,
            a.shape
        );
    }
    Ok(())
}

pub(crate) fn finite(name: &str, value: f32) -> Result<(), Error> {
    if !value.is_finite() {
        return fail!(InvalidArgument, "{name} is {value}, and must be finite");
    }
    Ok(())
}

pub(crate) fn non_negative(name: &str, value: f32) -> Result<(), Error> {
    finite(name, value)?;
    if value < 0.0 {
        return fail!(InvalidArgument, "{name} is {value}, and must not be negative");
    }
    Ok(())
}

pub(crate) fn positive(name: &str, value: f32) -> Result<(), Error> {
    finite(name, value)?;
    if value <= 0.0 {
        return fail!(InvalidArgument, "{name} is {value}, and must be above 0");
    }
    Ok(())
}
