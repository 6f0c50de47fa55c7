//! Small products by tiles of [`ROWS`] × [`COLS`] outputs, for kernels that
//! pack their operands themselves and leave out what a mask hides.

use super::matmul::Matrix;
use super::{Level, level};
#[cfg(target_arch = "x86_64")]
use super::{
    gemm_avx2::{Avx2, LOOSE},
    packing,
};

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;
/// Columns of a tile.
pub(crate) const COLS: usize = 16;
/// Floats that [`Tiles::pack_left`] may write past the last strip's end.
pub(crate) const SLACK: usize = 16;

/// A tile: its outputs, and where its operands lie.
pub(crate) struct Tile<'a> {
    pub depth: usize,
    /// The rows of the tile.
    pub left: *const f32,
    /// `depth` rows of as many columns as a whole tile has.
    pub right: *const f32,
    /// Floats from row to row of it: as many, if it is packed, as all tiles but
    /// AVX-512's and [loose](super::gemm_avx2::LOOSE) ones take for granted.
    pub right_stride: usize,
    /// What is wanted next, wherever that is: packed tiles ask for a cache
    /// line of it for each sixteen of `depth` (AVX2) or for each (AVX-512);
    /// these a row of `right` further on each time if it is not packed.
    pub next: *const f32,
    /// Cache lines that are wanted later, of any memory, a few for each tile:
    /// asked for into L2 on the way, while the products leave memory idle.
    pub ahead: &'a [*const u8],
    /// Of `f32`, or of bfloat16 if the tile rounds.
    pub out: *mut f32,
    pub out_stride: usize,
    /// Rows of the tile that exist: what most tiles are functions of.
    pub rows: usize,
    /// Columns of the tile that exist.
    pub width: usize,
    pub alpha: f32,
    pub accumulate: bool,
}

/// How a tile's rows lie.
#[derive(Clone, Copy)]
pub(crate) enum Rows {
    /// As [`Tiles::pack_left`] leaves them.
    Packed,
    /// These strides from row to row, and along the inner dimension.
    Strided(usize, usize),
}

/// The tiles of this machine.
#[derive(Clone, Copy)]
pub(crate) struct Tiles(Level);

impl Tiles {
    pub fn new() -> Tiles {
        Tiles(level())
    }

    /// Copies all of `a` into strips of [`ROWS`] rows, each strip inner
    /// dimension first; the last is as narrow as the rows that are left.
    ///
    /// # Panics
    /// If there is no room for a.rows × a.cols floats and [`SLACK`], or `a`
    /// leaves its slice.
    pub fn pack_left(self, a: Matrix, to: &mut [f32]) {
        assert!(to.len() >= a.rows * a.cols + SLACK);
        a.check();
        #[cfg(target_arch = "x86_64")]
        if self.0 != Level::Portable {
            // SAFETY: AVX2 was detected; a is inside its slice, and there is
            // room (checked).
            unsafe { packing::pack_left::<Avx2, f32>(&a, to.as_mut_ptr()) };
            return;
        }
        for top in (0..a.rows).step_by(ROWS) {
            let rows = ROWS.min(a.rows - top);
            let strip = &mut to[top * a.cols..][..rows * a.cols];
            for (k, column) in strip.chunks_exact_mut(rows).enumerate() {
                for (i, value) in column.iter_mut().enumerate() {
                    *value = a.data[(top + i) * a.row_stride + k * a.col_stride];
                }
            }
        }
    }

    /// Copies all of `b` into panels of [`COLS`] columns, each inner dimension
    /// first; columns that are missing in the last become 0.
    ///
    /// # Panics
    /// If there is no room for them, or `b` leaves its slice.
    pub fn pack_right(self, b: Matrix, to: &mut [f32]) {
        assert!(to.len() >= b.rows * b.cols.next_multiple_of(COLS));
        b.check();
        #[cfg(target_arch = "x86_64")]
        if self.0 != Level::Portable {
            // SAFETY: as above.
            unsafe { packing::pack_right::<Avx2, f32>(&b, to.as_mut_ptr(), b.rows * COLS, false) };
            return;
        }
        for (first, panel) in (0..b.cols).step_by(COLS).zip(to.chunks_exact_mut(b.rows * COLS)) {
            for (k, line) in panel.as_chunks_mut::<COLS>().0.iter_mut().enumerate() {
                for (j, value) in line.iter_mut().enumerate() {
                    let inside = first + j < b.cols;
                    *value = if inside { b.data[k * b.row_stride + (first + j) * b.col_stride] } else { 0.0 };
                }
            }
        }
    }

    /// out (=|+=) alpha · left · right for `rows` rows, 1 to [`ROWS`].
    ///
    /// # Safety
    /// `left` has `rows` × depth elements as `lie` says, `right` depth ×
    /// [`COLS`]; `out` has `rows` rows of `width` elements `out_stride` apart,
    /// which no one else uses.
    #[inline(always)]
    pub unsafe fn multiply(self, tile: &Tile, rows: usize, lie: Rows) {
        #[cfg(target_arch = "x86_64")]
        if self.0 != Level::Portable {
            // SAFETY: AVX2 was detected; the rest is the caller's promise.
            unsafe {
                match lie {
                    Rows::Packed => <Avx2 as super::micro::Micro>::RUN[0][rows - 1](tile),
                    Rows::Strided(row, col) => LOOSE[rows - 1](tile, row, col),
                }
            }
            return;
        }
        let (row, col) = match lie {
            Rows::Packed => (1, rows),
            Rows::Strided(row, col) => (row, col),
        };
        // SAFETY: the caller's promise.
        unsafe { portable(tile, rows, row, col) };
    }
}

/// # Safety
/// As [`Tiles::multiply`].
unsafe fn portable(tile: &Tile, rows: usize, row: usize, col: usize) {
    let mut sums = [[0f32; COLS]; ROWS];
    for k in 0..tile.depth {
        for (i, sums) in sums[..rows].iter_mut().enumerate() {
            // SAFETY: an element of the left operand, the caller's promise.
            let a = unsafe { *tile.left.add(i * row + k * col) };
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: an element of the right operand.
                *sum += a * unsafe { *tile.right.add(k * COLS + j) };
            }
        }
    }
    for (i, sums) in sums[..rows].iter().enumerate() {
        for (j, sum) in sums[..tile.width].iter().enumerate() {
            // SAFETY: an element of the output.
            let out = unsafe { &mut *tile.out.add(i * tile.out_stride + j) };
            *out = tile.alpha * sum + if tile.accumulate { *out } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 64.0 - 0.75).collect()
    }

    /// A product by tiles, its left operand packed or not, at both levels.
    #[test]
    fn tiles_make_products() {
        for tiles in [Tiles(level()), Tiles(Level::Portable)] {
            for (m, n, k, packed) in
                [(6, 16, 9, true), (13, 40, 64, true), (7, 5, 1, false), (48, 64, 33, false)]
            {
                for (trans_a, trans_b) in [(false, false), (true, true)] {
                    let (a, b) = (filled(m * k, 1), filled(k * n, 2));
                    let (a, b) = (Matrix::new(&a, m, k, trans_a), Matrix::new(&b, k, n, trans_b));
                    let (mut left, mut right) =
                        (vec![9.0; m * k + SLACK], vec![9.0; k * n.next_multiple_of(COLS)]);
                    tiles.pack_left(a, &mut left);
                    tiles.pack_right(b, &mut right);
                    let before = filled(m * n, 3);
                    let mut out = before.clone();
                    for i in (0..m).step_by(ROWS) {
                        for j in (0..n).step_by(COLS) {
                            let (from, lie) = match packed {
                                true => (left[i * k..].as_ptr(), Rows::Packed),
                                false => (
                                    a.data[i * a.row_stride..].as_ptr(),
                                    Rows::Strided(a.row_stride, a.col_stride),
                                ),
                            };
                            let tile = Tile {
                                depth: k,
                                left: from,
                                right: right[j * k..].as_ptr(),
                                right_stride: COLS,
                                next: right[j * k..].as_ptr(),
                                ahead: &[],
                                out: out[i * n + j..].as_mut_ptr(),
                                out_stride: n,
                                rows: ROWS.min(m - i),
                                width: COLS.min(n - j),
                                alpha: 0.5,
                                accumulate: true,
                            };
                            // SAFETY: operands and outputs are as sized above.
                            unsafe { tiles.multiply(&tile, ROWS.min(m - i), lie) };
                        }
                    }
                    for (at, (got, before)) in out.iter().zip(&before).enumerate() {
                        let (i, j) = (at / n, at % n);
                        let exact: f64 = (0..k)
                            .map(|l| {
                                f64::from(a.data[i * a.row_stride + l * a.col_stride])
                                    * f64::from(b.data[l * b.row_stride + j * b.col_stride])
                            })
                            .sum();
                        let exact = f64::from(*before) + 0.5 * exact;
                        assert!(
                            (f64::from(*got) - exact).abs() < 1e-5,
                            "{m}×{n}×{k} at {at}: {got}, {exact}"
                        );
                    }
                }
            }
        }
    }
}
