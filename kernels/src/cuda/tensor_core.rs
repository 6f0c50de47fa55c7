//! Launches of products of two bfloat16 matrices on tensor cores: by TMA and
//! wgmma on Hopper where TMA can read the operands, by mma.sync elsewhere.
//! Which, and how the work is cut, follows from shapes, addresses' alignment
//! and the card's architecture alone.

use super::arguments::{End, MatMulBf16, MatMulHopper, Work, shared};
use super::driver::{Address, TensorMap};
use super::launch::each;
use super::{Cuda, THREADS};
use crate::Error;
use crate::step::MatMulDims;

/// Rows and columns of a tile, `matmul_bf16_*`.
const PORTABLE: [usize; 2] = [128, 128];
/// Rows and columns of a tile, `matmul_hopper_*`.
const HOPPER: [usize; 2] = [128, 256];
/// A producer and two consumers, of 128 threads.
const HOPPER_THREADS: u64 = 384;
/// Of k, in a stage of either.
const DEPTH: usize = 64;
/// Elements of k that are worth a part of their own.
const LEAST_PART: usize = 512;
/// Tiles that keep a large card busy; fewer are split along k.
const ENOUGH_TILES: usize = 128;

/// How many parts along k, and the depth of each, a multiple of [`DEPTH`].
fn split(tiles: usize, k: usize) -> (usize, usize) {
    let wanted = (ENOUGH_TILES / tiles.max(1)).min(k / LEAST_PART).max(1);
    let depth = k.div_ceil(wanted).next_multiple_of(DEPTH);
    (k.div_ceil(depth), depth)
}

/// A stored matrix: rows × cols, `batch` of them.
struct Stored {
    address: Address,
    rows: usize,
    cols: usize,
    batch: usize,
}

impl Stored {
    /// Whether every row begins at a multiple of 16 bytes.
    fn aligned(&self) -> bool {
        self.address.is_multiple_of(16) && self.cols.is_multiple_of(8)
    }

    /// Whether TMA can read it.
    fn boxes(&self) -> bool {
        let fits = |d: usize| d <= i32::MAX as usize;
        self.aligned() && fits(self.rows) && fits(self.cols) && fits(self.batch)
    }

    /// For boxes of 64 columns × `rows` rows.
    fn map(&self, cuda: &Cuda, rows: u32) -> Result<TensorMap, Error> {
        let sizes = [self.cols, self.rows, self.batch].map(|d| d as u64);
        cuda.driver.tensor_map(self.address, sizes, [64, rows, 1])
    }
}

/// out (=|+=) alpha · op(a) · op(b), both bfloat16, finished by `end`, whose
/// `out` is the result. k > 0.
///
/// # Safety
/// The addresses of a, b and those of the end are live and hold what the
/// dimensions say; what is written overlaps nothing else.
pub(super) unsafe fn run(
    cuda: &mut Cuda,
    [a, b]: [Address; 2],
    dims: &MatMulDims,
    end: End,
) -> Result<(), Error> {
    let MatMulDims { batch, m, n, k, trans_a, trans_b, .. } = *dims;
    let [a_rows, a_cols] = if trans_a { [k, m] } else { [m, k] };
    let [b_rows, b_cols] = if trans_b { [n, k] } else { [k, n] };
    let a = Stored { address: a, rows: a_rows, cols: a_cols, batch };
    let b = Stored { address: b, rows: b_rows, cols: b_cols, batch };
    let hopper = cuda.driver.card.capability == (9, 0) && a.boxes() && b.boxes();
    let [height, width] = if hopper { HOPPER } else { PORTABLE };
    let tiles = batch * m.div_ceil(height) * n.div_ceil(width);
    let (splits, depth) = split(tiles, k);
    let parts = tiles * splits;
    let count = batch * m * n;
    let partial = if splits > 1 { cuda.scratch(splits * count * 4)? } else { 0 };
    let work = Work {
        partial,
        end,
        batch: batch as u64,
        m: m as u64,
        n: n as u64,
        k: k as u64,
        depth: depth as u64,
        splits: u32::try_from(splits).unwrap_or(u32::MAX),
    };
    if hopper {
        // An operand with k fastest is one box of rows; else boxes of 64 of k.
        let maps =
            [a.map(cuda, if trans_a { 64 } else { 128 })?, b.map(cuda, if trans_b { 256 } else { 64 })?];
        let arguments = MatMulHopper { a: maps[0], b: maps[1], work };
        let names = ["matmul_hopper_nn", "matmul_hopper_nt", "matmul_hopper_tn", "matmul_hopper_tt"];
        // One block a multiprocessor walks over the parts.
        let blocks = parts.min(cuda.driver.card.multiprocessors.max(1) as usize);
        let name = names[usize::from(trans_a) * 2 + usize::from(trans_b)];
        // SAFETY: the caller's promise; maps were made for the operands.
        unsafe { cuda.launch_wide(name, blocks, HOPPER_THREADS, shared::MATMUL_HOPPER, arguments)? };
    } else {
        let names = ["matmul_bf16_nn", "matmul_bf16_nt", "matmul_bf16_tn", "matmul_bf16_tt"];
        let name = names[usize::from(trans_a) * 2 + usize::from(trans_b)];
        let arguments = MatMulBf16 {
            a: a.address,
            b: b.address,
            work,
            a_aligned: u32::from(a.aligned()),
            b_aligned: u32::from(b.aligned()),
        };
        // SAFETY: the caller's promise.
        unsafe { cuda.launch_wide(name, parts, THREADS, shared::MATMUL_BF16, arguments)? };
    }
    if splits > 1 {
        // SAFETY: the parts lie in the scratch memory.
        unsafe { cuda.launch("matmul_combine", each(count), 0, work)? };
    }
    Ok(())
}
