//! What a fused matrix product does to a block of its result while the block
//! is in a cache: bias, activation, residual, or the activation's derivative.

#[cfg(target_arch = "x86_64")]
use super::ends_avx512;
use super::math::{gelu_divisor, sigmoid};
use super::past;
use super::product::{Numbers, Results, SharedResults};
use super::rounding::narrow;
use super::simd::{fma, multiversion};
#[cfg(target_arch = "x86_64")]
use super::{Level, level};
use crate::bf16;
use crate::op::Activation;

/// 2 · √(2/π), and that times three times the cubic term of GELU: the slope of
/// [`gelu_divisor`]'s t is the first + the second · z².
pub(super) const STEEP: f32 = 1.595_769_2;
pub(super) const STEEP_SQUARE: f32 = 0.214_064_46;
/// Elements that are widened at a time.
const PART: usize = 256;

/// The end of a fused product. Slices are empty where an operand is absent.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    pub activation: Activation,
    /// One value per column.
    pub bias: &'a [f32],
    pub residual: Numbers<'a>,
    pub pre: Pre<'a>,
    /// What is not written to the sums themselves is written past the caches.
    pub past: bool,
}

/// What is done with the value before the activation.
#[derive(Clone, Copy)]
pub(crate) enum Pre<'a> {
    Dropped,
    Stored(SharedResults),
    /// The result is multiplied by the derivative there.
    Read(Numbers<'a>),
}

impl Epilogue<'_> {
    /// Results are what the product is.
    pub const NONE: Epilogue<'static> = Epilogue {
        activation: Activation::Identity,
        bias: &[],
        residual: Numbers::NONE,
        pre: Pre::Dropped,
        past: false,
    };

    /// Where what it reads or writes beside the result begins, each laid out
    /// as the result is, and the bytes of an element.
    pub fn beside(&self) -> impl Iterator<Item = (*const u8, usize)> {
        let place = |numbers| match numbers {
            Numbers::F32(of) => (of.as_ptr().cast(), 4),
            Numbers::Bf16(of) => (of.as_ptr().cast(), 2),
        };
        let residual = (self.residual.len() > 0).then(|| place(self.residual));
        let pre = match self.pre {
            Pre::Read(pre) => Some(place(pre)),
            Pre::Stored(_) if self.past => None,
            Pre::Stored(SharedResults::F32(pre)) => Some((pre.at(0).cast_const().cast(), 4)),
            Pre::Stored(SharedResults::Bf16(pre)) => Some((pre.at(0).cast_const().cast(), 2)),
            Pre::Dropped => None,
        };
        residual.into_iter().chain(pre)
    }

    /// Finishes one row of a block: `row` holds the product's elements
    /// `start..` of the output, which begin at column `col`. The result is
    /// there, or in `to` where that is not empty; if `past`, call
    /// [`published`](super::past::published) before another thread reads it.
    pub fn finish(&self, row: &mut [f32], to: Results, start: usize, col: usize) {
        let len = row.len();
        let bias = if self.bias.is_empty() { self.bias } else { &self.bias[col..col + len] };
        let residual = match self.residual.len() {
            0 => Numbers::NONE,
            _ => self.residual.part(start..start + len),
        };
        match self.pre {
            Pre::Read(pre) => gradient(row, pre.part(start..start + len), self.activation, to, self.past),
            Pre::Dropped => apply(row, bias, residual, Results::F32(&mut []), self.activation, to, self.past),
            Pre::Stored(pre) => {
                // SAFETY: blocks do not overlap, and each is one task's.
                let pre = unsafe { pre.range(start, len) };
                apply(row, bias, residual, pre, self.activation, to, self.past);
            }
        }
    }
}

/// act(row + bias) + residual, with the value before it to `pre`.
fn apply(
    row: &mut [f32],
    bias: &[f32],
    residual: Numbers,
    mut pre: Results,
    act: Activation,
    mut to: Results,
    past: bool,
) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512 {
        // SAFETY: the level's instructions.
        done = unsafe { ends_avx512::apply(row, bias, residual, &mut pre, act, &mut to, past) };
    }
    let row = &mut row[done..];
    if row.is_empty() {
        return;
    }
    let residual = residual.part(done.min(residual.len())..residual.len());
    in_passes(row, &bias[done.min(bias.len())..], residual, pre.rest(done), act);
    hand_over(row, to.rest(done), past);
}

/// row · act'(pre).
fn gradient(row: &mut [f32], pre: Numbers, act: Activation, mut to: Results, past: bool) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512 {
        // SAFETY: the level's instructions.
        done = unsafe { ends_avx512::gradient(row, pre, act, &mut to, past) };
    }
    let len = row.len();
    let row = &mut row[done..];
    if row.is_empty() {
        return;
    }
    gradient_in_passes(row, pre.part(done..len), act);
    hand_over(row, to.rest(done), past);
}

/// A finished row to where it goes, if that is elsewhere.
fn hand_over(row: &[f32], to: Results, past: bool) {
    match to {
        Results::F32([]) | Results::Bf16([]) => {}
        Results::F32(to) if past => past::copy(row, to),
        Results::F32(to) => to.copy_from_slice(row),
        Results::Bf16(to) => narrow(row, to),
    }
}

multiversion! {
    /// row = act(row + bias) + residual, with the value before it to `pre`.
    fn in_passes(row: &mut [f32], bias: &[f32], residual: Numbers, pre: Results, act: Activation) = passes_body
}

#[inline(always)]
fn passes_body<const FMA: bool>(
    row: &mut [f32],
    bias: &[f32],
    residual: Numbers,
    pre: Results,
    act: Activation,
) {
    for (z, b) in row.iter_mut().zip(bias) {
        *z += b;
    }
    match pre {
        Results::F32(pre) => {
            for (p, z) in pre.iter_mut().zip(row.iter()) {
                *p = *z;
            }
        }
        Results::Bf16(pre) => narrow(row, pre),
    }
    match act {
        Activation::Identity => {}
        // NaN stays NaN.
        Activation::Relu => row.iter_mut().for_each(|z| *z = if *z <= 0.0 { 0.0 } else { *z }),
        Activation::ReluSquared => row.iter_mut().for_each(|z| {
            let r = if *z <= 0.0 { 0.0 } else { *z };
            *z = r * r;
        }),
        Activation::Gelu => row.iter_mut().for_each(|z| {
            *z /= gelu_divisor::<FMA>(*z);
        }),
        Activation::Silu => row.iter_mut().for_each(|z| *z *= sigmoid::<FMA>(*z)),
    }
    match residual {
        Numbers::F32(residual) => row.iter_mut().zip(residual).for_each(|(z, r)| *z += r),
        Numbers::Bf16(bits) => row.iter_mut().zip(bits).for_each(|(z, r)| *z += bf16::value(*r)),
    }
}

multiversion! {
    /// row *= act'(pre).
    fn gradient_in_passes(row: &mut [f32], pre: Numbers, act: Activation) = gradient_body
}

#[inline(always)]
fn gradient_body<const FMA: bool>(row: &mut [f32], pre: Numbers, act: Activation) {
    match pre {
        Numbers::F32(pre) => multiply_by_slopes::<FMA>(row, pre, act),
        Numbers::Bf16(bits) => {
            let mut pre = [0.0; PART];
            for (row, bits) in row.chunks_mut(PART).zip(bits.chunks(PART)) {
                bf16::widen(bits, &mut pre[..bits.len()]);
                multiply_by_slopes::<FMA>(row, &pre[..bits.len()], act);
            }
        }
    }
}

#[inline(always)]
fn multiply_by_slopes<const FMA: bool>(row: &mut [f32], pre: &[f32], act: Activation) {
    let pairs = row.iter_mut().zip(pre);
    match act {
        Activation::Identity => {}
        Activation::Relu => pairs.for_each(|(d, z)| *d = if *z > 0.0 { *d } else { 0.0 }),
        Activation::ReluSquared => pairs.for_each(|(d, z)| *d *= if *z <= 0.0 { 0.0 } else { 2.0 * z }),
        Activation::Gelu => pairs.for_each(|(d, z)| {
            let s = 1.0 / gelu_divisor::<FMA>(*z);
            let steep = fma::<FMA>(STEEP_SQUARE, z * z, STEEP);
            *d *= fma::<FMA>(z * s * (1.0 - s), steep, s);
        }),
        Activation::Silu => pairs.for_each(|(d, z)| {
            let s = sigmoid::<FMA>(*z);
            *d *= s * fma::<FMA>(*z, 1.0 - s, 1.0);
        }),
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    const ACTIVATIONS: [Activation; 5] =
        [Activation::Identity, Activation::Relu, Activation::ReluSquared, Activation::Gelu, Activation::Silu];

    /// Numbers of every size and sign, and what is no number.
    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        (0..len)
            .map(|_| match next() % 12 {
                0 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40][next() as usize % 6],
                1 => f32::from_bits(next() << 8 | next() & 0xff),
                2 => (next() % 2000) as f32 / 10.0 - 100.0,
                _ => (next() % 20_000) as f32 / 2500.0 - 4.0,
            })
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        // Which NaN it is says nothing.
        values.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
    }

    fn widened(halves: &[u16]) -> Vec<u32> {
        bits(&halves.iter().map(|&half| bf16::value(half)).collect::<Vec<_>>())
    }

    /// The same ends by [`passes_body`], with the operations of AVX2.
    #[test]
    fn one_pass_has_the_bits_of_several() {
        if level() < Level::Avx512 {
            return;
        }
        for (len, past) in
            [1, 15, 16, 17, 31, 64, 250].into_iter().flat_map(|len| [(len, false), (len, true)])
        {
            for (act, what) in ACTIVATIONS.into_iter().flat_map(|act| (0..64).map(move |what| (act, what))) {
                let z = numbers(len, what + 7 * len as u32);
                let some = |bit: u32| if what >> bit & 1 > 0 { numbers(len, bit + 3) } else { vec![] };
                let (bias, residual) = (some(0), some(1));
                let half_residual: Vec<u16> = residual.iter().map(|&x| bf16::round(x)).collect();
                let residual = match what >> 5 & 1 {
                    0 => Numbers::F32(&residual),
                    _ => Numbers::Bf16(&half_residual),
                };
                let run = |passes: bool| {
                    let mut row = z.clone();
                    let (mut pre, mut pre_half) = (vec![0f32; some(2).len()], vec![0u16; some(3).len()]);
                    let mut half = vec![0u16; some(4).len()];
                    let to = if pre_half.is_empty() {
                        Results::F32(&mut pre)
                    } else {
                        Results::Bf16(&mut pre_half)
                    };
                    if passes {
                        in_passes(&mut row, &bias, residual, to, act);
                        narrow(&row[..half.len()], &mut half);
                    } else {
                        apply(&mut row, &bias, residual, to, act, Results::Bf16(&mut half), past);
                    }
                    // A rounded result need not be there in full.
                    let row = if half.is_empty() { bits(&row) } else { vec![] };
                    (row, bits(&pre), widened(&pre_half), widened(&half))
                };
                assert_eq!(run(false), run(true), "{act:?} {what:06b} {len}");
                let (d, half_pre) =
                    (numbers(len, what + 1), z.iter().map(|&x| bf16::round(x)).collect::<Vec<_>>());
                let pre = if what & 1 > 0 { Numbers::Bf16(&half_pre) } else { Numbers::F32(&z) };
                let run = |passes: bool| {
                    let (mut row, mut half) = (d.clone(), vec![0u16; some(4).len()]);
                    if passes {
                        gradient_in_passes(&mut row, pre, act);
                        narrow(&row[..half.len()], &mut half);
                    } else {
                        gradient(&mut row, pre, act, Results::Bf16(&mut half), past);
                    }
                    (if half.is_empty() { bits(&row) } else { vec![] }, widened(&half))
                };
                assert_eq!(run(false), run(true), "gradient {act:?} {what:06b} {len}");
            }
        }
    }
}
