//! What instructions do to a tile: loops that the compiler turns into vector
//! code, in functions of their own, so that the code of one does not depend on
//! what another one needs.
//!
//! In arithmetic an operand that is empty is the result's own place, which is
//! then updated (see `Ready::updates`).

use super::super::math;
use super::super::simd::{dot, larger, maximum, multiversion, smaller, sum};
use crate::op::{BinaryOp, UnaryOp};

/// Operands of an instruction: a value per element, or one for all.
type Operands<'a> = [&'a [f32]; 4];

multiversion! {
    wide
    /// A function of each element.
    pub(super) fn unary(op: UnaryOp, dst: &mut [f32], a: &[f32]) = unary_body
}
multiversion! {
    wide
    /// op(a)·b, and ·c if there is one.
    pub(super) fn gated(op: UnaryOp, dst: &mut [f32], abc: [&[f32]; 3]) = gated_body
}
multiversion! {
    wide
    /// (plus + op(scale·a))·(factor·b), of the three uniform values in this
    /// order; without b it is 1.
    pub(super) fn shaped(op: UnaryOp, dst: &mut [f32], ab: [&[f32]; 2], uniform: [f32; 3]) = shaped_body
}
multiversion! {
    /// Of operands that are whole or uniform.
    pub(super) fn binary(op: BinaryOp, dst: &mut [f32], ab: [&[f32]; 2]) = binary_body
}
multiversion! {
    wide
    /// Line by line: an operand has a value per element, per line or one.
    pub(super) fn by_line(op: BinaryOp, dst: &mut [f32], ab: [&[f32]; 2], cols: usize) = by_line_body
}
multiversion! {
    wide
    /// a·b ± c·d.
    pub(super) fn products(subtract: bool, dst: &mut [f32], abcd: Operands) = products_body
}
multiversion! {
    wide
    /// sign(a·b ± c·d).
    pub(super) fn sign_of_products(subtract: bool, dst: &mut [f32], abcd: Operands) = sign_of_products_body
}
multiversion! {
    wide
    /// d − (a·b ± c·d).
    pub(super) fn less_products(subtract: bool, dst: &mut [f32], abcd: Operands) = less_products_body
}
multiversion! {
    wide
    /// a·b ± c.
    pub(super) fn product_then(subtract: bool, dst: &mut [f32], abc: [&[f32]; 3]) = product_then_body
}
multiversion! {
    wide
    /// c ± a·b.
    pub(super) fn then_product(subtract: bool, dst: &mut [f32], abc: [&[f32]; 3]) = then_product_body
}
multiversion! {
    wide
    /// d + (factor·a)·(b·c).
    pub(super) fn then_cube(factor: f32, dst: &mut [f32], abcd: Operands) = then_cube_body
}
multiversion! {
    wide
    /// a·x + c·y or its sign, and f·x + g·y, of the uniform a, c, f, g.
    pub(super) fn twins(sign: bool, dst: &mut [f32], second: &mut [f32], xy: [&[f32]; 2], uniform: [f32; 4]) =
        twins_body
}
multiversion! {
    wide
    /// a·b·c.
    pub(super) fn triple(dst: &mut [f32], abc: [&[f32]; 3]) = triple_body
}
multiversion! {
    wide
    /// 1, 0 or −1.
    pub(super) fn signs(dst: &mut [f32], a: &[f32]) = signs_body
}
multiversion! {
    /// b where a is positive, else c.
    pub(super) fn select(dst: &mut [f32], abc: [&[f32]; 3]) = select_body
}
multiversion! {
    wide
    /// To each line its value.
    pub(super) fn broadcast(dst: &mut [f32], a: &[f32], cols: usize) = broadcast_body
}
multiversion! {
    wide
    /// Numbers the columns, from `first` on.
    pub(super) fn numbers(dst: &mut [f32], first: usize, cols: usize) = numbers_body
}
multiversion! {
    pub(super) fn dots(dst: &mut [f32], a: &[f32], b: &[f32], cols: usize) = dots_body
}
multiversion! {
    pub(super) fn sums(dst: &mut [f32], a: &[f32], cols: usize) = sums_body
}
multiversion! {
    pub(super) fn maxima(dst: &mut [f32], a: &[f32], cols: usize) = maxima_body
}

#[inline(always)]
fn map(dst: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
    dst.iter_mut().zip(x).for_each(|(o, x)| *o = f(*x));
}

/// f(x), where an empty x is what was there.
#[inline(always)]
fn one(dst: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
    if x.is_empty() {
        dst.iter_mut().for_each(|o| *o = f(*o));
    } else {
        map(dst, x, f);
    }
}

/// f(x, y), where an empty one is what was there.
#[inline(always)]
fn two(dst: &mut [f32], x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
    if x.is_empty() {
        dst.iter_mut().zip(y).for_each(|(o, y)| *o = f(*o, *y));
    } else if y.is_empty() {
        dst.iter_mut().zip(x).for_each(|(o, x)| *o = f(*x, *o));
    } else {
        dst.iter_mut().zip(x).zip(y).for_each(|((o, x), y)| *o = f(*x, *y));
    }
}

/// f(a, b, c, d), where a and c may be uniform, and b or d what was there if
/// both are.
#[inline(always)]
fn four(dst: &mut [f32], [a, b, c, d]: Operands, f: impl Fn(f32, f32, f32, f32) -> f32) {
    let outputs = dst.iter_mut();
    match (a, c) {
        ([a], [c]) => two(dst, b, d, |b, d| f(*a, b, *c, d)),
        ([a], c) => outputs.zip(b).zip(c).zip(d).for_each(|(((o, b), c), d)| *o = f(*a, *b, *c, *d)),
        (a, [c]) => outputs.zip(a).zip(b).zip(d).for_each(|(((o, a), b), d)| *o = f(*a, *b, *c, *d)),
        (a, c) => {
            outputs.zip(a).zip(b).zip(c).zip(d).for_each(|((((o, a), b), c), d)| *o = f(*a, *b, *c, *d));
        }
    }
}

/// f(a·b, c), where a and c may be uniform, and b or c what was there if a is.
#[inline(always)]
fn product(dst: &mut [f32], [a, b, c]: [&[f32]; 3], f: impl Fn(f32, f32) -> f32) {
    let outputs = dst.iter_mut();
    match (a, c) {
        ([a], [c]) => one(dst, b, |b| f(a * b, *c)),
        ([a], c) => two(dst, b, c, |b, c| f(a * b, c)),
        (a, [c]) => outputs.zip(a).zip(b).for_each(|((o, a), b)| *o = f(a * b, *c)),
        (a, c) => outputs.zip(a).zip(b).zip(c).for_each(|(((o, a), b), c)| *o = f(a * b, *c)),
    }
}

#[inline(always)]
fn sign(x: f32) -> f32 {
    let (up, down) = (if x > 0.0 { 1.0 } else { 0.0 }, if -x > 0.0 { 1.0 } else { 0.0 });
    up - down
}

#[inline(always)]
fn products_body<const FMA: bool>(subtract: bool, dst: &mut [f32], abcd: Operands) {
    match subtract {
        false => four(dst, abcd, |a, b, c, d| a * b + c * d),
        true => four(dst, abcd, |a, b, c, d| a * b - c * d),
    }
}

#[inline(always)]
fn sign_of_products_body<const FMA: bool>(subtract: bool, dst: &mut [f32], abcd: Operands) {
    match subtract {
        false => four(dst, abcd, |a, b, c, d| sign(a * b + c * d)),
        true => four(dst, abcd, |a, b, c, d| sign(a * b - c * d)),
    }
}

#[inline(always)]
fn less_products_body<const FMA: bool>(subtract: bool, dst: &mut [f32], abcd: Operands) {
    match subtract {
        false => four(dst, abcd, |a, b, c, d| d - (a * b + c * d)),
        true => four(dst, abcd, |a, b, c, d| d - (a * b - c * d)),
    }
}

#[inline(always)]
fn product_then_body<const FMA: bool>(subtract: bool, dst: &mut [f32], abc: [&[f32]; 3]) {
    match subtract {
        false => product(dst, abc, |ab, c| ab + c),
        true => product(dst, abc, |ab, c| ab - c),
    }
}

#[inline(always)]
fn then_product_body<const FMA: bool>(subtract: bool, dst: &mut [f32], abc: [&[f32]; 3]) {
    match subtract {
        false => product(dst, abc, |ab, c| c + ab),
        true => product(dst, abc, |ab, c| c - ab),
    }
}

#[inline(always)]
fn then_cube_body<const FMA: bool>(factor: f32, dst: &mut [f32], [a, b, c, d]: Operands) {
    for ((((o, a), b), c), d) in dst.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *o = d + (factor * a) * (b * c);
    }
}

#[inline(always)]
fn twins_body<const FMA: bool>(
    with_sign: bool,
    dst: &mut [f32],
    second: &mut [f32],
    xy: [&[f32]; 2],
    [a, c, f, g]: [f32; 4],
) {
    /// p(x, y) and q(x, y), where x or y may be what was in the place of the
    /// second.
    #[inline(always)]
    fn both(
        dst: &mut [f32],
        second: &mut [f32],
        [x, y]: [&[f32]; 2],
        p: impl Fn(f32, f32) -> f32,
        q: impl Fn(f32, f32) -> f32,
    ) {
        let outputs = dst.iter_mut().zip(second);
        if x.is_empty() {
            outputs.zip(y).for_each(|((o, x), y)| (*o, *x) = (p(*x, *y), q(*x, *y)));
        } else if y.is_empty() {
            outputs.zip(x).for_each(|((o, y), x)| (*o, *y) = (p(*x, *y), q(*x, *y)));
        } else {
            outputs.zip(x).zip(y).for_each(|(((o, s), x), y)| (*o, *s) = (p(*x, *y), q(*x, *y)));
        }
    }
    let q = |x, y| f * x + g * y;
    match with_sign {
        false => both(dst, second, xy, |x, y| a * x + c * y, q),
        true => both(dst, second, xy, |x, y| sign(a * x + c * y), q),
    }
}

#[inline(always)]
fn triple_body<const FMA: bool>(dst: &mut [f32], [a, b, c]: [&[f32]; 3]) {
    for (((o, a), b), c) in dst.iter_mut().zip(a).zip(b).zip(c) {
        *o = a * b * c;
    }
}

#[inline(always)]
fn signs_body<const FMA: bool>(dst: &mut [f32], a: &[f32]) {
    map(dst, a, sign);
}

#[inline(always)]
fn select_body<const FMA: bool>(dst: &mut [f32], [a, b, c]: [&[f32]; 3]) {
    for (((o, a), b), c) in dst.iter_mut().zip(a).zip(b).zip(c) {
        *o = if *a > 0.0 { *b } else { *c };
    }
}

#[inline(always)]
fn gated_body<const FMA: bool>(op: UnaryOp, dst: &mut [f32], abc: [&[f32]; 3]) {
    #[inline(always)]
    fn gate(dst: &mut [f32], [a, b, c]: [&[f32]; 3], f: impl Fn(f32) -> f32) {
        let outputs = dst.iter_mut().zip(a).zip(b);
        if c.is_empty() {
            outputs.for_each(|((o, a), b)| *o = f(*a) * b);
        } else {
            outputs.zip(c).for_each(|(((o, a), b), c)| *o = f(*a) * b * c);
        }
    }
    match op {
        UnaryOp::Sigmoid => gate(dst, abc, math::sigmoid::<FMA>),
        UnaryOp::Tanh => gate(dst, abc, math::tanh::<FMA>),
        UnaryOp::Exponential => gate(dst, abc, math::exp::<FMA>),
        // No other is fused.
        _ => unreachable!(),
    }
}

#[inline(always)]
fn shaped_body<const FMA: bool>(op: UnaryOp, dst: &mut [f32], ab: [&[f32]; 2], uniform: [f32; 3]) {
    #[inline(always)]
    fn shape(dst: &mut [f32], [a, b]: [&[f32]; 2], [scale, plus, factor]: [f32; 3], f: impl Fn(f32) -> f32) {
        let outputs = dst.iter_mut().zip(a);
        if b.is_empty() {
            outputs.for_each(|(o, a)| *o = (plus + f(scale * a)) * factor);
        } else {
            outputs.zip(b).for_each(|((o, a), b)| *o = (plus + f(scale * a)) * (factor * b));
        }
    }
    match op {
        UnaryOp::Sigmoid => shape(dst, ab, uniform, math::sigmoid::<FMA>),
        UnaryOp::Tanh => shape(dst, ab, uniform, math::tanh::<FMA>),
        UnaryOp::Exponential => shape(dst, ab, uniform, math::exp::<FMA>),
        // No other is fused.
        _ => unreachable!(),
    }
}

#[inline(always)]
fn broadcast_body<const FMA: bool>(dst: &mut [f32], a: &[f32], cols: usize) {
    for (line, value) in dst.chunks_exact_mut(cols).zip(a) {
        line.fill(*value);
    }
}

#[inline(always)]
fn numbers_body<const FMA: bool>(dst: &mut [f32], first: usize, cols: usize) {
    for line in dst.chunks_exact_mut(cols) {
        for (col, d) in (first as u32..).zip(line) {
            *d = col as f32;
        }
    }
}

#[inline(always)]
fn dots_body<const FMA: bool>(dst: &mut [f32], a: &[f32], b: &[f32], cols: usize) {
    for (d, (a, b)) in dst.iter_mut().zip(a.chunks_exact(cols).zip(b.chunks_exact(cols))) {
        *d = dot::<FMA>(a, b);
    }
}

#[inline(always)]
fn sums_body<const FMA: bool>(dst: &mut [f32], a: &[f32], cols: usize) {
    for (d, line) in dst.iter_mut().zip(a.chunks_exact(cols)) {
        *d = sum::<FMA>(line);
    }
}

#[inline(always)]
fn maxima_body<const FMA: bool>(dst: &mut [f32], a: &[f32], cols: usize) {
    for (d, line) in dst.iter_mut().zip(a.chunks_exact(cols)) {
        *d = maximum(line);
    }
}

#[inline(always)]
fn unary_body<const FMA: bool>(op: UnaryOp, dst: &mut [f32], a: &[f32]) {
    match op {
        UnaryOp::Negate => map(dst, a, |x| -x),
        UnaryOp::Absolute => map(dst, a, f32::abs),
        UnaryOp::Reciprocal => map(dst, a, |x| 1.0 / x),
        UnaryOp::Square => map(dst, a, |x| x * x),
        UnaryOp::SquareRoot => map(dst, a, f32::sqrt),
        UnaryOp::ReciprocalSquareRoot => map(dst, a, |x| 1.0 / x.sqrt()),
        UnaryOp::Exponential => map(dst, a, math::exp::<FMA>),
        UnaryOp::Logarithm => map(dst, a, math::ln::<FMA>),
        UnaryOp::Tanh => map(dst, a, math::tanh::<FMA>),
        UnaryOp::Sigmoid => map(dst, a, math::sigmoid::<FMA>),
        // NaN stays NaN.
        UnaryOp::Relu => map(dst, a, |x| if x <= 0.0 { 0.0 } else { x }),
        UnaryOp::Step => map(dst, a, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        UnaryOp::Sine => map(dst, a, f32::sin),
        UnaryOp::Cosine => map(dst, a, f32::cos),
        UnaryOp::Floor => map(dst, a, f32::floor),
    }
}

/// Of an operand what belongs to a line: its elements, or its one value.
#[inline(always)]
fn of_line(x: &[f32], line: usize, lines: usize, cols: usize) -> &[f32] {
    if x.len() <= 1 {
        x
    } else if x.len() == lines {
        &x[line..line + 1]
    } else {
        &x[line * cols..][..cols]
    }
}

#[inline(always)]
fn binary_body<const FMA: bool>(op: BinaryOp, dst: &mut [f32], ab: [&[f32]; 2]) {
    let cols = dst.len();
    by_line_body::<FMA>(op, dst, ab, cols);
}

#[inline(always)]
fn by_line_body<const FMA: bool>(op: BinaryOp, dst: &mut [f32], ab: [&[f32]; 2], cols: usize) {
    #[inline(always)]
    fn zip(dst: &mut [f32], [a, b]: [&[f32]; 2], cols: usize, f: impl Fn(f32, f32) -> f32) {
        let lines = dst.len() / cols;
        for (line, dst) in dst.chunks_exact_mut(cols).enumerate() {
            match (of_line(a, line, lines, cols), of_line(b, line, lines, cols)) {
                // A uniform operand has one element. (So has each in a line of one.)
                ([a], b) if dst.len() > 1 => one(dst, b, |b| f(*a, b)),
                (a, [b]) if dst.len() > 1 => one(dst, a, |a| f(a, *b)),
                (a, b) => two(dst, a, b, &f),
            }
        }
    }
    match op {
        BinaryOp::Add => zip(dst, ab, cols, |a, b| a + b),
        BinaryOp::Subtract => zip(dst, ab, cols, |a, b| a - b),
        BinaryOp::Multiply => zip(dst, ab, cols, |a, b| a * b),
        BinaryOp::Divide => zip(dst, ab, cols, |a, b| a / b),
        BinaryOp::Minimum => zip(dst, ab, cols, smaller),
        BinaryOp::Maximum => zip(dst, ab, cols, larger),
        BinaryOp::LessThan => zip(dst, ab, cols, |a, b| if a < b { 1.0 } else { 0.0 }),
        BinaryOp::Power => zip(dst, ab, cols, f32::powf),
    }
}
