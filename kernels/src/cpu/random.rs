//! Random fill.

use super::philox::philox4x32_10;
use super::{Output, Split};
use crate::op::Distribution;

/// Elements of one task; a multiple of 4, the words of a counter.
const TASK: usize = 16_384;

/// Element i is made of word i mod 4 of counter (i / 4, stream); a normal
/// takes a pair of words for a pair of elements.
pub(crate) fn fill(
    split: Split,
    dst: &mut [f32],
    seed: u64,
    stream: u64,
    distribution: Distribution,
    scale: f32,
) {
    let len = dst.len();
    let output = Output::new(dst);
    let key = [seed as u32, (seed >> 32) as u32];
    split.each(len.div_ceil(TASK), |task| {
        let start = task * TASK;
        // SAFETY: tasks take disjoint ranges.
        let part = unsafe { output.range(start, TASK.min(len - start)) };
        for (i, quad) in part.chunks_mut(4).enumerate() {
            let block = (start / 4 + i) as u64;
            let counter = [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32];
            let words = philox4x32_10(counter, key);
            let values = match distribution {
                Distribution::Uniform => words.map(|word| uniform(word) * scale),
                Distribution::Normal => {
                    let [a, b] = normals(words[0], words[1]);
                    let [c, d] = normals(words[2], words[3]);
                    [a * scale, b * scale, c * scale, d * scale]
                }
            };
            quad.copy_from_slice(&values[..quad.len()]);
        }
    });
}

/// In (−1, 1), symmetric: the middles of 2²³ equal intervals.
fn uniform(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (1.0 / 4_194_304.0) - 1.0
}

/// Box and Muller (1958): two independent N(0, 1).
fn normals(a: u32, b: u32) -> [f32; 2] {
    // In (0, 1), so that the logarithm is finite.
    let u = (f64::from(a) + 0.5) / 4_294_967_296.0;
    let angle = std::f64::consts::TAU * (f64::from(b) / 4_294_967_296.0);
    let radius = (-2.0 * u.ln()).sqrt();
    let (sin, cos) = angle.sin_cos();
    [(radius * cos) as f32, (radius * sin) as f32]
}
