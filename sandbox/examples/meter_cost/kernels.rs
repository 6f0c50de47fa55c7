//! The programs that the cost of metering is measured on, compiled to
//! WebAssembly by the compiler that candidates are compiled with: once without
//! and once with SIMD. Each export takes how often to repeat its work and
//! returns a checksum of what it computed.

#![no_std]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

const SIDE: usize = 96;
const LENGTH: usize = 8192;

/// Zeroed memory that all kernels work in; one runs at a time.
struct Memory(core::cell::UnsafeCell<Buffers>);
// SAFETY: a module instance has one thread.
unsafe impl Sync for Memory {}

#[repr(C, align(16))]
struct Buffers {
    a: [f32; SIDE * SIDE],
    b: [f32; SIDE * SIDE],
    c: [f32; SIDE * SIDE],
    words: [u32; LENGTH],
    bytes: [u8; LENGTH],
}

static MEMORY: Memory = Memory(core::cell::UnsafeCell::new(Buffers {
    a: [0.0; SIDE * SIDE],
    b: [0.0; SIDE * SIDE],
    c: [0.0; SIDE * SIDE],
    words: [0; LENGTH],
    bytes: [0; LENGTH],
}));

fn buffers() -> &'static mut Buffers {
    // SAFETY: each export takes this reference once, and none calls another.
    unsafe { &mut *MEMORY.0.get() }
}

fn random(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}

fn fill(values: &mut [f32], mut seed: u32) {
    for value in values {
        *value = (random(&mut seed) >> 8) as f32 / (1 << 24) as f32 - 0.5;
    }
}

/// C += A·B, row by row: the inner loop runs over a row of B and of C.
#[unsafe(no_mangle)]
pub extern "C" fn matmul(repeat: u32) -> f64 {
    let Buffers { a, b, c, .. } = buffers();
    fill(a, 1);
    fill(b, 2);
    c.fill(0.0);
    for _ in 0..repeat {
        for (row, out) in a.chunks_exact(SIDE).zip(c.chunks_exact_mut(SIDE)) {
            for (&x, other) in row.iter().zip(b.chunks_exact(SIDE)) {
                for (value, &y) in out.iter_mut().zip(other) {
                    *value += x * y;
                }
            }
        }
    }
    c.iter().map(|&v| f64::from(v)).sum()
}

/// One accumulator, so one addition after the other.
#[unsafe(no_mangle)]
pub extern "C" fn dot(repeat: u32) -> f64 {
    let Buffers { a, b, .. } = buffers();
    fill(a, 1);
    fill(b, 2);
    let mut total = 0.0;
    for _ in 0..repeat {
        let mut sum = 0.0f32;
        for (x, y) in a.iter().zip(b.iter()) {
            sum += x * y;
        }
        a[0] = sum * 1e-3;
        total += f64::from(sum);
    }
    total
}

/// SHA-256's compression function (FIPS 180-4) over the byte buffer.
#[unsafe(no_mangle)]
pub extern "C" fn sha256(repeat: u32) -> f64 {
    const K: [u32; 64] = {
        // Fractional parts of the cube roots of the first 64 primes.
        let mut k = [0u32; 64];
        let (mut n, mut found) = (2u128, 0);
        while found < 64 {
            let (mut d, mut prime) = (2, true);
            while d * d <= n {
                if n % d == 0 {
                    prime = false;
                }
                d += 1;
            }
            if prime {
                // The root of n·2⁹⁶ is the root of n, shifted by 32 bits.
                let (mut low, mut high) = (0u128, 1 << 36);
                while high - low > 1 {
                    let middle = (low + high) / 2;
                    if middle * middle * middle <= n << 96 {
                        low = middle;
                    } else {
                        high = middle;
                    }
                }
                k[found] = low as u32;
                found += 1;
            }
            n += 1;
        }
        k
    };
    let bytes = &mut buffers().bytes;
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i * 7 + i / 256) as u8;
    }
    let mut state = [
        0x6a09_e667u32,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    for _ in 0..repeat {
        for block in bytes.chunks_exact(64) {
            let mut w = [0u32; 64];
            for (word, four) in w.iter_mut().zip(block.chunks_exact(4)) {
                *word = u32::from_be_bytes([four[0], four[1], four[2], four[3]]);
            }
            for i in 16..64 {
                let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
                let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
                w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
            }
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
            for i in 0..64 {
                let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
                let t1 =
                    h.wrapping_add(s1).wrapping_add((e & f) ^ (!e & g)).wrapping_add(K[i]).wrapping_add(w[i]);
                let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
                let t2 = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
                (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
            }
            for (s, x) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *s = s.wrapping_add(x);
            }
        }
    }
    f64::from(state[0])
}

/// Sorts random words with the library's own sort.
#[unsafe(no_mangle)]
pub extern "C" fn sort(repeat: u32) -> f64 {
    let words = &mut buffers().words;
    let mut seed = 3;
    for _ in 0..repeat {
        for word in words.iter_mut() {
            *word = random(&mut seed);
        }
        words.sort_unstable();
    }
    f64::from(words[LENGTH / 2])
}

#[inline(never)]
fn fibonacci(n: u32) -> u32 {
    if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
}

/// Recursion and little else.
#[unsafe(no_mangle)]
pub extern "C" fn fib(repeat: u32) -> f64 {
    (0..repeat).map(|i| f64::from(fibonacci(18 + (i & 1)))).sum()
}

#[inline(never)]
fn mix(a: u32, b: u32) -> u32 {
    (a ^ b).wrapping_mul(0x9e37_79b1).rotate_left(b & 7)
}

#[inline(never)]
fn blend(a: u32, b: u32) -> u32 {
    if a & 1 == 0 { mix(a, b) } else { mix(b, a).wrapping_add(1) }
}

/// Small functions called from a loop.
#[unsafe(no_mangle)]
pub extern "C" fn calls(repeat: u32) -> f64 {
    let mut x = 1;
    for i in 0..repeat * 1000 {
        x = blend(x, mix(x, i));
    }
    f64::from(x)
}

type Step = fn(u32) -> u32;

/// The same through a table of functions.
#[unsafe(no_mangle)]
pub extern "C" fn indirect(repeat: u32) -> f64 {
    static STEPS: [Step; 4] =
        [|x| x.wrapping_mul(3), |x| x ^ (x >> 3), |x| x.wrapping_add(0x1234_5679), |x| x.rotate_left(9)];
    let mut x = 1;
    for i in 0..repeat * 1000 {
        x = STEPS[((x ^ i) & 3) as usize](x);
    }
    f64::from(x)
}

/// The smallest loop that touches memory: one byte per turn.
#[unsafe(no_mangle)]
pub extern "C" fn scan(repeat: u32) -> f64 {
    let bytes = &mut buffers().bytes;
    bytes.fill(1);
    bytes[LENGTH - 1] = 0;
    let mut total = 0;
    for i in 0..repeat {
        bytes[(i & 63) as usize] = 2;
        // Ends at the zero, so the compiler knows no number of turns.
        total += bytes.iter().position(|&b| b == 0).unwrap_or(0) as u32 & 0xff;
    }
    f64::from(total)
}

/// The smallest loop without memory: about one cycle for each of its
/// dependent steps.
#[unsafe(no_mangle)]
pub extern "C" fn collatz(repeat: u32) -> f64 {
    let mut total = 0u32;
    for start in 0..repeat * 10 {
        let mut n = u64::from(start) + 27;
        while n != 1 {
            n = if n & 1 == 0 { n / 2 } else { 3 * n + 1 };
            total = total.wrapping_add(1);
        }
    }
    f64::from(total)
}

/// An interpreter's loop: every turn ends in a branch by a table.
#[unsafe(no_mangle)]
pub extern "C" fn interpret(repeat: u32) -> f64 {
    let Buffers { words, bytes, .. } = buffers();
    let mut seed = 5;
    for byte in bytes.iter_mut() {
        *byte = (random(&mut seed) >> 9) as u8 & 7;
    }
    words.fill(0);
    let mut a = 1u32;
    for _ in 0..repeat {
        let (mut at, mut left) = (0usize, 20_000u32);
        while left > 0 {
            left -= 1;
            at = (at + 1) % LENGTH;
            match bytes[at] {
                0 => a = a.wrapping_add(1),
                1 => a = a.wrapping_mul(5),
                2 => words[at] = a,
                3 => a ^= words[at ^ 1],
                4 if a & 1 == 0 => at = (at + 3) % LENGTH,
                5 => a = a.rotate_left(7),
                6 => a = a.wrapping_sub(at as u32),
                _ => {}
            }
        }
    }
    f64::from(a)
}

#[cfg(target_feature = "simd128")]
mod simd {
    use super::{Buffers, SIDE, buffers, fill};
    use core::arch::wasm32::*;

    fn load(from: &[f32; 4]) -> v128 {
        f32x4(from[0], from[1], from[2], from[3])
    }

    /// Tiles of 4 × 8 results that stay in registers.
    #[unsafe(no_mangle)]
    pub extern "C" fn matmul_simd(repeat: u32) -> f64 {
        let Buffers { a, b, c, .. } = buffers();
        fill(a, 1);
        fill(b, 2);
        c.fill(0.0);
        for _ in 0..repeat {
            for i in (0..SIDE).step_by(4) {
                for j in (0..SIDE).step_by(8) {
                    let mut sums = [[f32x4_splat(0.0); 2]; 4];
                    for k in 0..SIDE {
                        // SAFETY: j + 8 ≤ SIDE and k < SIDE.
                        let (low, high) = unsafe {
                            let at = b.as_ptr().add(k * SIDE + j);
                            (v128_load(at.cast()), v128_load(at.add(4).cast()))
                        };
                        for (row, sum) in sums.iter_mut().enumerate() {
                            // SAFETY: i + 4 ≤ SIDE and k < SIDE.
                            let x = f32x4_splat(unsafe { *a.as_ptr().add((i + row) * SIDE + k) });
                            sum[0] = f32x4_add(sum[0], f32x4_mul(x, low));
                            sum[1] = f32x4_add(sum[1], f32x4_mul(x, high));
                        }
                    }
                    for (row, sum) in sums.iter().enumerate() {
                        // SAFETY: as above.
                        unsafe {
                            let at = c.as_mut_ptr().add((i + row) * SIDE + j);
                            v128_store(at.cast(), f32x4_add(v128_load(at.cast()), sum[0]));
                            v128_store(at.add(4).cast(), f32x4_add(v128_load(at.add(4).cast()), sum[1]));
                        }
                    }
                }
            }
        }
        c.iter().map(|&v| f64::from(v)).sum()
    }

    /// Four lanes, one accumulator.
    #[unsafe(no_mangle)]
    pub extern "C" fn dot_simd(repeat: u32) -> f64 {
        let Buffers { a, b, .. } = buffers();
        fill(a, 1);
        fill(b, 2);
        let mut total = 0.0;
        for _ in 0..repeat {
            let mut sum = f32x4_splat(0.0);
            for (x, y) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0) {
                sum = f32x4_add(sum, f32x4_mul(load(x), load(y)));
            }
            let one = f32x4_extract_lane::<0>(sum)
                + f32x4_extract_lane::<1>(sum)
                + f32x4_extract_lane::<2>(sum)
                + f32x4_extract_lane::<3>(sum);
            a[0] = one * 1e-3;
            total += f64::from(one);
        }
        total
    }

    /// x += s·y over a short vector: the smallest loop of loads and stores.
    #[unsafe(no_mangle)]
    pub extern "C" fn axpy_simd(repeat: u32) -> f64 {
        let Buffers { a, b, .. } = buffers();
        fill(a, 1);
        fill(b, 2);
        for _ in 0..repeat {
            for (value, &y) in a[..2048].iter_mut().zip(&b[..2048]) {
                *value = *value * 0.5 + y;
            }
        }
        f64::from(a[100])
    }
}
