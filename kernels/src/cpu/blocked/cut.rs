//! How a product is cut into blocks.

use crate::cpu::micro::Micro;

/// Full blocks whose rows, and the rest of them, go into blocks of half the height: 73
/// blocks and a bit of 2048 rows left one of two threads idle for 1 % of a product.
pub(super) const LOW: usize = 2;
/// Most columns of a block.
pub(super) const WIDE: usize = 768;
/// Fewest columns that a block is cut down to, for more tasks.
pub(super) const NARROW: usize = 192;
/// Tasks that a large product is cut into at least.
pub(super) const TASKS: usize = 8;
/// Multiply-adds of a task, at least, to be worth a hand-over.
const TASK_WORK: u64 = 1 << 20;

/// Rows and columns up to which a block has all rows and packs its columns alone: what
/// it copies, and its sums, stay in 2 MiB of L2. On two cores of an Emerald Rapids
/// 384 × 2048 × 1536, tn, took 0.67 of the time, 384 × 2048 × 384 0.76.
pub(super) const ALONE: usize = 384;

/// Equal parts of `whole`, each at most `most` and a multiple of `unit`.
pub(super) fn part(whole: usize, most: usize, unit: usize) -> usize {
    whole.div_ceil(whole.div_ceil(most)).next_multiple_of(unit)
}

/// Rows and columns of a block, by the shape alone.
pub(super) fn grid<M: Micro>(m: usize, n: usize, k: usize) -> (usize, usize) {
    let cols = M::COLS;
    let tall = part(m, M::blocks().tall, M::ROWS);
    let mut wide = part(n, WIDE, cols);
    while wide > NARROW && m.div_ceil(tall) * n.div_ceil(wide) < TASKS {
        let half = part(n, wide.div_ceil(2), cols);
        if half >= wide || (tall as u64 * half as u64).saturating_mul(k as u64) < TASK_WORK {
            break;
        }
        wide = half;
    }
    (tall, wide)
}

/// Columns of such a block, if there are enough for each thread.
pub(super) fn columns_alone<M: Micro>(n: usize, threads: usize) -> Option<usize> {
    let blocks = n.div_ceil(ALONE).next_multiple_of(threads);
    let wide = n.div_ceil(blocks).next_multiple_of(M::COLS);
    (wide >= NARROW).then_some(wide)
}
