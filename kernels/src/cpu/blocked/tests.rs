//! Products against their definition, and by one way against another, to the bit.

use super::cut::{TASKS, WIDE};
use super::*;
use crate::bf16;
use crate::cpu::Output;
use crate::cpu::epilogue::Pre;
use crate::cpu::gemm_amx::{Amx, RowPair};
use crate::cpu::gemm_avx2::Avx2;
use crate::cpu::gemm_avx512::{Avx512, Avx512Bf16};
use crate::cpu::moves::Moved;
use crate::cpu::packing::Pair;
use crate::cpu::product::Numbers;
use crate::cpu::simd::{Level, level};
use crate::cpu::team::Team;
use crate::op::Activation;

/// Values that bfloat16 holds exactly.
fn filled(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 64.0 - 0.75).collect()
}

fn bits(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&x| bf16::round(x)).collect()
}

/// Each element type of each operand, stored either way, against `f64`.
#[allow(clippy::too_many_arguments)]
fn check<M: Micro>(
    (m, n, k): (usize, usize, usize),
    trans_a: bool,
    trans_b: bool,
    accumulate: bool,
    alpha: f32,
) {
    let split = Split { team: None };
    let (a, b, before) = (filled(m * k, 1), filled(k * n, 2), filled(m * n + 5, 3));
    let (a_bits, b_bits) = (bits(&a), bits(&b));
    let (a, b) = (Matrix::new(&a, m, k, trans_a), Matrix::new(&b, k, n, trans_b));
    let (ha, hb) = (Matrix::new(&a_bits, m, k, trans_a), Matrix::new(&b_bits, k, n, trans_b));
    let start = 3;
    let exact: Vec<f64> = (0..m * n)
        .map(|at| {
            let (i, j) = (at / n, at % n);
            let term = |l: usize| {
                f64::from(a.data[i * a.row_stride + l * a.col_stride])
                    * f64::from(b.data[l * b.row_stride + j * b.col_stride])
            };
            let sum: f64 = (0..k).map(term).sum();
            f64::from(alpha) * sum + if accumulate { f64::from(before[start + at]) } else { 0.0 }
        })
        .collect();
    let compare = |what: &str, got: &[f32], bound: f64| {
        assert_eq!(got[..start], before[..start], "{what}: before the output");
        assert_eq!(got[start + m * n..], before[start + m * n..], "{what}: after the output");
        for (at, (got, exact)) in got[start..].iter().zip(&exact).enumerate() {
            let error = (f64::from(*got) - exact).abs();
            let bound = bound * exact.abs() + 2e-6 * (k as f64 + 4.0);
            assert!(
                error < bound,
                "{what} {m}×{n}×{k} {trans_a} {trans_b} {accumulate}, {at}: {got} and {exact}"
            );
        }
    };
    let wide = |run: &dyn Fn(SharedResults)| {
        let mut out = before.clone();
        run(SharedResults::F32(Output::new(&mut out)));
        out
    };
    // SAFETY: the level was checked; operands are dense in their
    // slices, and the outputs have m × n elements from `start`.
    let ff = |to| unsafe { product::<M, f32, f32>(split, a, b, to, start, alpha, accumulate, None) };
    // SAFETY: see above.
    let hf = |to| unsafe { product::<M, u16, f32>(split, ha, b, to, start, alpha, accumulate, None) };
    // SAFETY: see above.
    let fh = |to| unsafe { product::<M, f32, u16>(split, a, hb, to, start, alpha, accumulate, None) };
    // SAFETY: see above.
    let hh = |to| unsafe { product::<M, u16, u16>(split, ha, hb, to, start, alpha, accumulate, None) };
    compare("f32", &wide(&ff), 0.0);
    compare("bf16 · f32", &wide(&hf), 0.0);
    compare("f32 · bf16", &wide(&fh), 0.0);
    compare("bf16", &wide(&hh), 0.0);
    let mut out = bits(&before);
    hh(SharedResults::Bf16(Moved::new(&mut out)));
    let out: Vec<f32> = out.iter().map(|&x| bf16::value(x)).collect();
    compare("bf16 to bf16", &out, 1.0 / 256.0);
    if level() < Level::Avx512Bf16 {
        return;
    }
    let pairs = |to| {
        // SAFETY: see above.
        unsafe { product::<Avx512Bf16, Pair, Pair>(split, ha, hb, to, start, alpha, accumulate, None) }
    };
    compare("pairs", &wide(&pairs), 0.0);
    let mut out = bits(&before);
    pairs(SharedResults::Bf16(Moved::new(&mut out)));
    let out: Vec<f32> = out.iter().map(|&x| bf16::value(x)).collect();
    compare("pairs to bf16", &out, 1.0 / 256.0);
    if level() < Level::Amx {
        return;
    }
    let by_amx = |to| {
        // SAFETY: see above.
        unsafe { product::<Amx, RowPair, RowPair>(split, ha, hb, to, start, alpha, accumulate, None) }
    };
    compare("AMX", &wide(&by_amx), 0.0);
    let mut out = bits(&before);
    by_amx(SharedResults::Bf16(Moved::new(&mut out)));
    let out: Vec<f32> = out.iter().map(|&x| bf16::value(x)).collect();
    compare("AMX to bf16", &out, 1.0 / 256.0);
}

#[test]
fn products_match_their_definition() {
    if level() == Level::Portable {
        return;
    }
    for (m, n, k) in
        // (Rows of 1024 are packed, as they would fall on the same lines; by AMX 400 columns
        // are packed by their tasks, where the rows lie in columns.)
        [
            (1, 8, 3),
            (6, 16, 8),
            (13, 17, 9),
            (97, 50, 400),
            (200, 100, 30),
            (64, 790, 17),
            (45, 40, 1024),
            (50, 70, 5001),
            (37, 400, 1101),
        ]
    {
        for way in 0..8 {
            for alpha in [0.5, 1.0] {
                check::<Avx2>((m, n, k), way & 1 > 0, way & 2 > 0, way & 4 > 0, alpha);
                if level() >= Level::Avx512 {
                    check::<Avx512>((m, n, k), way & 1 > 0, way & 2 > 0, way & 4 > 0, alpha);
                }
            }
        }
    }
}

/// What a product writes, from a line's begin on: its result and the values
/// before the activation, as bits.
fn written<T: Copy + Default>(len: usize, run: impl Fn(&mut [T], &mut [T])) -> [Vec<T>; 2] {
    let mut room = [0; 2].map(|_| vec![T::default(); len + 64]);
    let [out, pre] = room.each_mut().map(|room| {
        let skipped = room.as_ptr().align_offset(ALIGN);
        &mut room[skipped..][..len]
    });
    run(out, pre);
    [out.to_vec(), pre.to_vec()]
}

/// Large results have the bits of the same rows by small products, which do
/// not go past the caches; where rows begin with cache lines and where they
/// do not, where alpha makes denormal numbers of the sums, and where the right
/// operand is read where it lies and where it is packed.
fn check_large<M: Micro, U: Unit>(k: usize, of: impl Fn(&[f32]) -> Vec<U::Element>)
where
    U::Element: Default,
{
    let team = Team::new(2).unwrap();
    let split = Split { team: Some(&team) };
    let (m, part) = (1100, 100);
    let rows = [(512, 0), (512, 3), (520, 0), (516, 16)];
    let scales = [(0.5, 1.0), (1.0 / 64.0, (-60f32).exp2()), (-1.0, 1.0)];
    for ((n, start), (alpha, scale)) in rows.into_iter().flat_map(|rows| scales.map(|scale| (rows, scale))) {
        assert!(m * n * 2 >= LARGE && part * n * 4 < LARGE);
        let len = start + m * n + 5;
        let scaled = |len, seed| of(&filled(len, seed).iter().map(|x| x * scale).collect::<Vec<_>>());
        let (a, values) = (scaled(m * k, 1), scaled(k * n, 2));
        // From a line's begin on.
        let mut room = vec![U::Element::default(); values.len() + ALIGN];
        let skipped = room.as_ptr().align_offset(ALIGN);
        let b = &mut room[skipped..][..values.len()];
        b.copy_from_slice(&values);
        let b = &*b;
        let whole = n.is_multiple_of(M::COLS) && k.is_multiple_of(M::DEEP);
        let lies = M::LYING_RIGHT.is_some() && U::LIES && whole;
        assert_eq!(right_lies::<M, U>(&Matrix::new(b, k, n, false), m), lies);
        let (bias, other) = (filled(n, 3), filled(len, 4));
        let ends = |pre| {
            let plain = Epilogue { pre, activation: Activation::Gelu, ..Epilogue::NONE };
            let backward = Epilogue { pre: Pre::Read(Numbers::F32(&other)), ..plain };
            [None, Some(Epilogue { bias: &bias, residual: Numbers::F32(&other), ..plain }), Some(backward)]
        };
        let run = |out: SharedResults, pre: SharedResults, end: usize, rows: usize| {
            for row in (0..m).step_by(rows) {
                let a = Matrix::new(&a[row * k..], rows, k, false);
                let (b, start) = (Matrix::new(b, k, n, false), start + row * n);
                let end = ends(Pre::Stored(pre))[end];
                // SAFETY: the level was checked; operands are dense in
                // their slices, and the outputs have m × n elements.
                unsafe { product::<M, U, U>(split, a, b, out, start, alpha, false, end.as_ref()) };
            }
        };
        for end in 0..3 {
            let wide = |rows| {
                written(len, |out, pre| {
                    let [out, pre] = [out, pre].map(|of| SharedResults::F32(Output::new(of)));
                    run(out, pre, end, rows);
                })
            };
            assert_eq!(wide(m), wide(part), "{n} from {start}, end {end}, {alpha} {scale}");
            let halves = |rows| {
                written(len, |out, pre| {
                    let [out, pre] = [out, pre].map(|of| SharedResults::Bf16(Moved::new(of)));
                    run(out, pre, end, rows);
                })
            };
            assert_eq!(halves(m), halves(part), "{n} from {start}, end {end}, {alpha} {scale}, rounded");
        }
    }
}

#[test]
fn large_results_have_the_bits_of_small_ones() {
    if level() == Level::Portable {
        return;
    }
    for k in [9, 10] {
        check_large::<Avx2, f32>(k, <[f32]>::to_vec);
        if level() >= Level::Avx512 {
            check_large::<Avx512, f32>(k, <[f32]>::to_vec);
        }
        if level() >= Level::Avx512Bf16 {
            check_large::<Avx512Bf16, Pair>(k, bits);
        }
        if level() >= Level::Amx {
            check_large::<Amx, RowPair>(k, bits);
        }
    }
}

const PAGE: usize = 4096;

/// Elements that end where memory ends.
struct Last<T> {
    map: *mut u8,
    bytes: usize,
    data: *mut T,
    len: usize,
}

impl<T: Copy> Last<T> {
    fn new(from: &[T]) -> Last<T> {
        let bytes = size_of_val(from).next_multiple_of(PAGE);
        // SAFETY: a new mapping, whose last page no one may touch.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let wanted = libc::PROT_READ | libc::PROT_WRITE;
            let map = libc::mmap(std::ptr::null_mut(), bytes + PAGE, wanted, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map.byte_add(bytes), PAGE, libc::PROT_NONE), 0);
            map.cast::<u8>()
        };
        let data = map.wrapping_add(bytes - size_of_val(from)).cast::<T>();
        // SAFETY: the end of what may be touched, aligned as the page's end is.
        unsafe { data.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Last { map, bytes, data, len: from.len() }
    }

    fn all(&self) -> &[T] {
        // SAFETY: elements of the mapping, written by `new`.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl<T> Drop for Last<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`.
        unsafe { libc::munmap(self.map.cast(), self.bytes + PAGE) };
    }
}

/// However its operands lie, be they packed or not, a product has the same
/// bits, and reads nothing behind them.
fn check_lying<M: Micro, U: Unit>(reads_right: bool, of: impl Fn(&[f32]) -> Vec<U::Element>)
where
    U::Element: Default,
{
    let team = Team::new(2).unwrap();
    let split = Split { team: Some(&team) };
    // The last four: more than one part of the inner dimension, the first of
    // them in a right operand that is not small for many rows; and more than one
    // of the columns, in rows of less than a page and of more. Before them, rows that
    // all fall on the same lines of L1: no tile reads those where they lie.
    for (m, n, k) in [
        (14, 32, 1),
        (20, 48, 9),
        (45, 64, 23),
        (30, 40, 24),
        (45, 64, 64),
        (300, 96, 40),
        (600, 64, 31),
        (45, 64, 1024),
        (540, 64, 6200),
        (30, 64, 4104),
        (20, 704, 6200),
        (20, 1056, 4101),
    ] {
        let (a, b) = (of(&filled(m * k, 1)), of(&filled(k * n, 2)));
        let turned = |from: &[U::Element], rows: usize, cols: usize| -> Vec<U::Element> {
            (0..rows * cols).map(|at| from[at % rows * cols + at / rows]).collect()
        };
        let (a_columns, b_columns) = (Last::new(&turned(&a, m, k)), Last::new(&turned(&b, k, n)));
        let (a, b_last) = (Last::new(&a), Last::new(&b));
        let (a, a_columns) = (Matrix::new(a.all(), m, k, false), Matrix::new(a_columns.all(), m, k, true));
        let b_columns = Matrix::new(b_columns.all(), k, n, true);
        let run = |a: Matrix<U::Element>, b: Matrix<U::Element>| {
            let mut out = vec![0.0; m * n];
            let to = SharedResults::F32(Output::new(&mut out));
            // SAFETY: the level was checked; operands are dense in their
            // slices, and the outputs have m × n elements.
            unsafe { product::<M, U, U>(split, a, b, to, 0, 0.5, false, None) };
            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let expected = run(a, b_columns);
        assert_eq!(run(a_columns, b_columns), expected, "{m}×{n}×{k}");
        // At the begin of a line, past it, and at the end of memory.
        let mut room = [0, 1].map(|_| vec![U::Element::default(); b.len() + 128]);
        let mut all = vec![b_last.all()];
        for (skipped, room) in room.iter_mut().enumerate() {
            let at = room.as_ptr().align_offset(ALIGN) + skipped;
            room[at..][..b.len()].copy_from_slice(&b);
            all.push(&room[at..][..b.len()]);
        }
        for b in all {
            let b = Matrix::new(b, k, n, false);
            let line = b.data.as_ptr().addr().is_multiple_of(ALIGN);
            let whole = n % M::COLS == 0 && k % M::DEEP == 0;
            let few = m <= FEW || size_of_val(b.data) <= SMALL;
            let near = n * size_of::<U::Element>() <= M::blocks().apart;
            let lies = reads_right && line && whole && few && near;
            assert_eq!(right_lies::<M, U>(&b, m), lies);
            for a in [a, a_columns] {
                assert_eq!(run(a, b), expected, "{m}×{n}×{k}, {} {line}", a.col_stride);
            }
        }
    }
}

#[test]
fn operands_that_lie_give_the_bits_of_packed_ones() {
    if level() == Level::Portable {
        return;
    }
    check_lying::<Avx2, f32>(false, <[f32]>::to_vec);
    check_lying::<Avx2, u16>(false, bits);
    if level() >= Level::Avx512 {
        let columns = Matrix::new(&[0.0; 6], 2, 3, true);
        assert!(matches!(left_of::<Avx512, f32>(&columns, false), Left::Fresh(_)));
        check_lying::<Avx512, f32>(true, <[f32]>::to_vec);
        check_lying::<Avx512, u16>(false, bits);
    }
    if level() >= Level::Avx512Bf16 {
        let rows = Matrix::new(&[0; 16], 2, 8, false);
        assert!(matches!(left_of::<Avx512Bf16, Pair>(&rows, false), Left::Fresh(_)));
        check_lying::<Avx512Bf16, Pair>(true, bits);
    }
    if level() >= Level::Amx {
        check_lying::<Amx, RowPair>(false, bits);
    }
}

/// Units that fill a step up are zeros, and not what was packed there before.
#[test]
fn what_was_packed_before_reaches_no_later_product() {
    if level() < Level::Amx {
        return;
    }
    let (m, n) = (40, 64);
    let run = |k: usize, trans_b: bool, value: u16| {
        let (a, b) = (vec![value; m * k], vec![value; k * n]);
        let (a, b) = (Matrix::new(&a, m, k, false), Matrix::new(&b, k, n, trans_b));
        let mut out = vec![0.0; m * n];
        let to = SharedResults::F32(Output::new(&mut out));
        // SAFETY: the level was checked; operands are dense in their slices, and the
        // outputs have m × n elements.
        unsafe { product::<Amx, RowPair, RowPair>(Split { team: None }, a, b, to, 0, 1.0, false, None) };
        out
    };
    for (k, trans_b) in [(9, false), (9, true), (33, false), (2, true)] {
        assert!(run(64, trans_b, 0x7fc0)[0].is_nan());
        assert_eq!(run(k, trans_b, 0x3f80), vec![k as f32; m * n], "{k} {trans_b}");
    }
}

/// A product with its own transpose has the bits of one with a copy of it.
fn check_symmetric<M: Micro, U: Unit>(of: impl Fn(&[f32]) -> Vec<U::Element>) {
    let team = Team::new(2).unwrap();
    let split = Split { team: Some(&team) };
    // The last ones go past the caches, in `f32` and in bfloat16.
    for (n, k) in [(1, 3), (45, 20), (100, 9), (384, 31), (200, 4200), (600, 8), (544, 12), (800, 6)] {
        let a = of(&filled(n * k, 1));
        let copy = a.clone();
        for transposed in [false, true] {
            let (left, right) = (Matrix::new(&a, n, k, transposed), Matrix::new(&a, k, n, !transposed));
            let copied = Matrix { data: &copy, ..right };
            assert!(is_transpose::<U, U>(&left, &right) && !is_transpose::<U, U>(&left, &copied));
            let run = |right: Matrix<U::Element>, to: SharedResults| {
                // SAFETY: the level was checked; operands are dense in their
                // slices, and the outputs have n × n elements.
                unsafe { product::<M, U, U>(split, left, right, to, 0, 1.5, false, None) };
            };
            let wide = |right| {
                written(n * n, |out, _| run(right, SharedResults::F32(Output::new(out))))
                    .map(|values| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            };
            assert_eq!(wide(right), wide(copied), "{n} {k} {transposed}");
            let halves = |right| written(n * n, |out, _| run(right, SharedResults::Bf16(Moved::new(out))));
            assert_eq!(halves(right), halves(copied), "{n} {k} {transposed}, rounded");
        }
    }
}

#[test]
fn products_with_their_own_transposes_have_the_bits_of_others() {
    if level() == Level::Portable {
        return;
    }
    check_symmetric::<Avx2, f32>(<[f32]>::to_vec);
    check_symmetric::<Avx2, u16>(bits);
    if level() >= Level::Avx512 {
        check_symmetric::<Avx512, f32>(<[f32]>::to_vec);
    }
    if level() >= Level::Avx512Bf16 {
        check_symmetric::<Avx512Bf16, Pair>(bits);
    }
    if level() >= Level::Amx {
        check_symmetric::<Amx, RowPair>(bits);
    }
}

#[test]
fn rows_on_the_same_lines_are_seen() {
    for (stride, expected) in
        [(384, true), (512, true), (1000, true), (1024, false), (1025, false), (1040, true), (2048, false)]
    {
        assert_eq!(scattered(14, stride), expected, "{stride}");
    }
    // Fewer rows than lines on a place.
    assert!(scattered(6, 1024));
}

#[test]
fn blocks_cover_and_stay_in_range() {
    for (m, n, k) in [(1, 1, 1), (2048, 1536, 384), (64, 256, 2048), (1, 100_000, 64), (384, 384, 2048)] {
        let (tall, wide) = grid::<Avx2>(m, n, k);
        assert!(tall >= 1 && wide >= 1 && tall <= Avx2::blocks().tall && wide <= WIDE);
        assert!(tall % 6 == 0 && wide % 16 == 0);
    }
    let (tall, wide) = grid::<Avx2>(384, 384, 2048);
    assert!(384usize.div_ceil(tall) * 384usize.div_ceil(wide) >= TASKS);
}
