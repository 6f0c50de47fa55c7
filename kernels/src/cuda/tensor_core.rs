//! Launches of products of two bfloat16 matrices on tensor cores: by TMA and
//! wgmma on Hopper where TMA can read the operands, by mma.sync elsewhere.
//! Which, and how the work is cut, follows from shapes, addresses' alignment
//! and the card's architecture alone.

use super::arguments::{End, Loss, LossBf16, LossHopper, MatMulBf16, MatMulHopper, Work, shared};
use super::driver::{Address, TensorMap};
use super::launch::each;
use super::{Cuda, THREADS};
use crate::Error;
use crate::op::DType;
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
/// Most tiles below one another, if odd, that are not taken in pairs.
const MOST_ODD_TILES: usize = 15;
/// By blocks of a cluster, and by which operand is transposed.
const HOPPER_NAMES: [[&str; 4]; 2] = [
    ["matmul_hopper_nn", "matmul_hopper_nt", "matmul_hopper_tn", "matmul_hopper_tt"],
    ["matmul_hopper_nn_pair", "matmul_hopper_nt_pair", "matmul_hopper_tn_pair", "matmul_hopper_tt_pair"],
];
/// By blocks of a cluster; forward, backward.
const LOSS_NAMES: [[&str; 2]; 2] = [
    ["linear_cross_entropy_hopper", "linear_cross_entropy_backward_hopper"],
    ["linear_cross_entropy_hopper_pair", "linear_cross_entropy_backward_hopper_pair"],
];
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
        cuda.driver.tensor_map(self.address, sizes, sizes[0], [64, rows, 1])
    }
}

/// Both operands, as they are stored.
fn stored([a, b]: [Address; 2], dims: &MatMulDims) -> [Stored; 2] {
    let MatMulDims { batch, m, n, k, trans_a, trans_b, .. } = *dims;
    let [a_rows, a_cols] = if trans_a { [k, m] } else { [m, k] };
    let [b_rows, b_cols] = if trans_b { [n, k] } else { [k, n] };
    [
        Stored { address: a, rows: a_rows, cols: a_cols, batch },
        Stored { address: b, rows: b_rows, cols: b_cols, batch },
    ]
}

/// The kernels that a product is done by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernels {
    Portable,
    /// For Hopper, by blocks alone.
    Alone,
    /// For Hopper, by clusters of two blocks.
    Pairs,
}

impl Kernels {
    /// For m rows of a product of these.
    fn choose(cuda: &Cuda, [a, b]: &[Stored; 2], m: usize) -> Kernels {
        let card = &cuda.driver.card;
        if card.capability != (9, 0) || !a.boxes() || !b.boxes() {
            return Kernels::Portable;
        }
        // An odd tile is half a pair's work for nothing.
        let tiles = m.div_ceil(HOPPER[0]);
        let pairs = tiles.is_multiple_of(2) || tiles > MOST_ODD_TILES;
        if card.clusters && pairs { Kernels::Pairs } else { Kernels::Alone }
    }

    /// Blocks of a cluster, which take tiles one below the other.
    fn blocks(self) -> usize {
        if self == Kernels::Pairs { 2 } else { 1 }
    }

    /// Rows and columns that a cluster takes.
    fn tile(self) -> [usize; 2] {
        let [rows, cols] = if self == Kernels::Portable { PORTABLE } else { HOPPER };
        [rows * self.blocks(), cols]
    }
}

/// How a product is done: by which kernel, and how it is cut along k.
struct Plan {
    kernels: Kernels,
    /// What clusters take, times splits.
    parts: usize,
    splits: usize,
    depth: usize,
}

/// `whole`: not cut along k.
fn plan(cuda: &Cuda, operands: &[Stored; 2], dims: &MatMulDims, whole: bool) -> Plan {
    let kernels = Kernels::choose(cuda, operands, dims.m);
    let [rows, cols] = kernels.tile();
    let taken = dims.batch * dims.m.div_ceil(rows) * dims.n.div_ceil(cols);
    let (splits, depth) =
        if whole { (1, dims.k.next_multiple_of(DEPTH)) } else { split(taken * kernels.blocks(), dims.k) };
    Plan { kernels, parts: taken * splits, splits, depth }
}

fn work(dims: &MatMulDims, plan: &Plan, end: End, partial: Address) -> Work {
    Work {
        partial,
        end,
        batch: dims.batch as u64,
        m: dims.m as u64,
        n: dims.n as u64,
        k: dims.k as u64,
        depth: plan.depth as u64,
        splits: u32::try_from(plan.splits).unwrap_or(u32::MAX),
        wide: u32::from(end.is_wide(partial)),
    }
}

/// The arguments for Hopper, and how many blocks walk over the parts: at most
/// one a multiprocessor, in whole clusters.
fn for_hopper(
    cuda: &Cuda,
    [a, b]: &[Stored; 2],
    dims: &MatMulDims,
    plan: &Plan,
    work: Work,
) -> Result<(MatMulHopper, usize), Error> {
    // An operand with k fastest is one box of rows; else boxes of 64 of k.
    // Each block of a cluster asks for its share of b.
    let blocks = plan.kernels.blocks();
    let a = a.map(cuda, if dims.trans_a { 64 } else { HOPPER[0] as u32 })?;
    let b = b.map(cuda, if dims.trans_b { (HOPPER[1] / blocks) as u32 } else { 64 })?;
    let clusters = (cuda.driver.card.multiprocessors as usize / blocks).clamp(1, plan.parts);
    Ok((MatMulHopper { a, b, work }, clusters * blocks))
}

fn for_others([a, b]: &[Stored; 2], work: Work) -> MatMulBf16 {
    let (a_aligned, b_aligned) = (u32::from(a.aligned()), u32::from(b.aligned()));
    MatMulBf16 { a: a.address, b: b.address, work, a_aligned, b_aligned }
}

/// Scratch memory that [`run_with`] needs for that product; 0: none.
pub(super) fn partial_bytes(cuda: &Cuda, addresses: [Address; 2], dims: &MatMulDims) -> usize {
    let plan = plan(cuda, &stored(addresses, dims), dims, false);
    if plan.splits > 1 { plan.splits * dims.batch * dims.m * dims.n * 4 } else { 0 }
}

/// out (=|+=) alpha · op(a) · op(b), both bfloat16, finished by `end`, whose
/// `out` is the result. k > 0.
///
/// # Safety
/// The addresses of a, b and those of the end are live and hold what the
/// dimensions say; what is written overlaps nothing else.
pub(super) unsafe fn run(
    cuda: &mut Cuda,
    addresses: [Address; 2],
    dims: &MatMulDims,
    end: End,
) -> Result<(), Error> {
    let partial = match partial_bytes(cuda, addresses, dims) {
        0 => 0,
        bytes => cuda.scratch(bytes)?,
    };
    // SAFETY: the caller's promise; the scratch is as large as was asked for.
    unsafe { run_with(cuda, addresses, dims, end, partial) }
}

/// As [`run`], with memory of [`partial_bytes`].
///
/// # Safety
/// As for [`run`].
pub(super) unsafe fn run_with(
    cuda: &mut Cuda,
    addresses: [Address; 2],
    dims: &MatMulDims,
    end: End,
    partial: Address,
) -> Result<(), Error> {
    let operands = stored(addresses, dims);
    let plan = plan(cuda, &operands, dims, false);
    let work = work(dims, &plan, end, if plan.splits > 1 { partial } else { 0 });
    let form = usize::from(dims.trans_a) * 2 + usize::from(dims.trans_b);
    if plan.kernels != Kernels::Portable {
        let (arguments, blocks) = for_hopper(cuda, &operands, dims, &plan, work)?;
        let name = HOPPER_NAMES[plan.kernels.blocks() - 1][form];
        // SAFETY: the caller's promise; maps were made for the operands.
        unsafe { cuda.launch_wide(name, blocks, HOPPER_THREADS, shared::MATMUL_HOPPER, arguments)? };
    } else {
        let name = ["matmul_bf16_nn", "matmul_bf16_nt", "matmul_bf16_tn", "matmul_bf16_tt"][form];
        let arguments = for_others(&operands, work);
        // SAFETY: the caller's promise.
        unsafe { cuda.launch_wide(name, plan.parts, THREADS, shared::MATMUL_BF16, arguments)? };
    }
    if plan.splits > 1 {
        // SAFETY: the parts lie in the scratch memory.
        unsafe { cuda.launch("matmul_combine", each(dims.batch * dims.m * dims.n), 0, work)? };
    }
    Ok(())
}

/// x \[m,k\] · weightᵀ \[k,n\] with the end of a linear cross-entropy.
///
/// # Safety
/// As for [`run`]; the loss's memory is large enough for m rows of n entries.
pub(super) unsafe fn loss(
    cuda: &mut Cuda,
    addresses: [Address; 2],
    [m, n, k]: [usize; 3],
    loss: Loss,
    backward: bool,
) -> Result<(), Error> {
    let (batch, trans_a, trans_b, alpha) = (1, false, true, 1.0);
    let dtypes = [DType::Bf16, DType::Bf16, DType::F32];
    let dims = MatMulDims { batch, m, n, k, trans_a, trans_b, alpha, dtypes };
    let operands = stored(addresses, &dims);
    let plan = plan(cuda, &operands, &dims, true);
    // What is stored is the gradient of the logits, if anything.
    let work = work(&dims, &plan, End::plain(loss.gradient, n, true, false), 0);
    if plan.kernels != Kernels::Portable {
        let (product, blocks) = for_hopper(cuda, &operands, &dims, &plan, work)?;
        let name = LOSS_NAMES[plan.kernels.blocks() - 1][usize::from(backward)];
        let arguments = LossHopper { product, loss };
        // SAFETY: the caller's promise; maps were made for the operands.
        unsafe { cuda.launch_wide(name, blocks, HOPPER_THREADS, shared::MATMUL_HOPPER, arguments) }
    } else {
        let names = ["linear_cross_entropy_bf16", "linear_cross_entropy_backward_bf16"];
        let arguments = LossBf16 { product: for_others(&operands, work), loss };
        // SAFETY: the caller's promise.
        unsafe {
            let name = names[usize::from(backward)];
            cuda.launch_wide(name, plan.parts, THREADS, shared::MATMUL_BF16, arguments)
        }
    }
}
