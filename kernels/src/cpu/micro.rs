//! What a product's tile is: the part of it that each instruction set writes itself.

use super::amx::Registers;
use super::matmul::Matrix;
use super::tiles::Tile;

/// How a tile ends: alpha times its sums are stored or accumulated. (Each end is a
/// function of its own. Tiles that choose when they run keep their sums in memory, and
/// take 1.5 to 2.4 of the time.)
pub(crate) const STORED: usize = 0;
/// They are stored past the caches: all columns exist, each row begins with a cache
/// line, and nothing is accumulated.
pub(crate) const PAST: usize = 1;
/// They are rounded to bfloat16 and stored as by [`PAST`], by AMX into the caches;
/// alpha is at least 1 or at most −1.
pub(crate) const ROUNDED: usize = 2;

/// A tile's functions by the ends that it has, from [`STORED`] on, and by its rows
/// less one.
pub(crate) type ByRows = &'static [&'static [unsafe fn(&Tile)]];
/// As [`ByRows`], with the elements from row to row of the left operand.
pub(crate) type LyingByRows = &'static [&'static [unsafe fn(&Tile, usize)]];

/// Tiles of [`Micro::ROWS`] rows, by their ends, that pack their left operand on the
/// way: columns, or rows of a multiple of four units.
pub(crate) type Packing<T> = &'static [unsafe fn(&Tile, &Matrix<T>)];

/// Copies a left operand to rows.
pub(crate) type ToRows<T> = unsafe fn(&Matrix<T>, *mut f32);

/// Copies a right operand to panels of so many units, so many floats apart.
pub(crate) type ToPanels<T> = unsafe fn(&Matrix<T>, usize, *mut f32, usize);

/// How a product is cut.
pub(crate) struct Blocks {
    /// Most units of the inner dimension that are packed at a time.
    pub depth: usize,
    /// As many of a left operand that is packed before its tiles.
    pub copied: usize,
    /// Rows of a block: with the depth 150 to 230 KiB of the left operand, in L2; more
    /// where L2 is larger.
    pub tall: usize,
    /// Whether tiles of [`Micro::LYING`] read rows where they lie.
    pub lies: bool,
    /// Most bytes from row to row of a right operand that is read where it lies.
    pub apart: usize,
}

/// An instruction set's tile.
pub(crate) trait Micro {
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a tile, a multiple of 8.
    const COLS: usize;
    /// Elements of the inner dimension in a unit that it multiplies.
    const DEEP: usize = 1;
    /// Units that it multiplies at once: packed operands have as many, zeros where
    /// there are none.
    const STEP: usize = 1;
    /// What computes a tile. Called through this table each is compiled alone;
    /// inlined into one function they would spill accumulators.
    const RUN: ByRows;
    /// As [`Micro::RUN`], for a left operand that lies in rows, where that pays.
    /// (Vectors of pairs of bfloat16 gained nothing by it.)
    const LYING: Option<LyingByRows> = None;
    /// As [`Micro::RUN`], for a right operand that lies in rows.
    const LYING_RIGHT: Option<ByRows> = None;
    /// Whether a packed left operand lies in rows too, as `Unit::TO_ROWS` leaves it,
    /// for tiles of [`Micro::LYING`], which read [`Micro::ROWS`] of them always.
    const IN_ROWS: bool = false;
    /// Whether `Unit::IN_COLUMNS` and `Unit::IN_ROWS` are its tiles too.
    const PACKS: bool = false;

    /// How its products are cut, on this machine.
    fn blocks() -> Blocks;

    /// After the tiles of a task, which may leave their last ends to this.
    ///
    /// # Safety
    /// The instruction set; on the thread that ran the tiles, whose outputs no one
    /// else has used since.
    unsafe fn flush() {}

    /// Before the tiles of a task: what they need until it is dropped.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn begin() -> Option<Registers> {
        None
    }
}
