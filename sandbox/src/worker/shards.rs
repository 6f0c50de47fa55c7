//! Token shards, mapped before the worker gives up the right to open files.

use crate::Shards;
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// The two splits, one byte per token.
pub(super) struct Mapped {
    pub train: Mmap,
    pub held_out: Mmap,
}

impl Mapped {
    pub fn open(shards: &Shards) -> Result<Self, String> {
        Ok(Self { train: map(&shards.train)?, held_out: map(&shards.held_out)? })
    }
}

fn map(path: &Path) -> Result<Mmap, String> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    // SAFETY: shards are written once, under a temporary name, and renamed
    // into place; nothing truncates them while a run uses them. If somebody
    // does, this process gets SIGBUS, which its parent reports as its death.
    unsafe { Mmap::map(&file) }.map_err(|e| format!("{}: {e}", path.display()))
}

/// Start of the `index`-th of `count` windows of `length` tokens spread evenly
/// over a shard of `total` tokens. `total` ≥ `length`, `index` < `count`.
pub(super) fn window_start(index: u64, count: u64, length: u64, total: u64) -> u64 {
    let last = total.saturating_sub(length);
    if count < 2 { 0 } else { (u128::from(last) * u128::from(index) / u128::from(count - 1)) as u64 }
}

/// The `n`-th number of the stream `seed`: SplitMix64 (Steele, Lea & Flood,
/// OOPSLA 2014) over a Weyl sequence, so that any element is found at once.
pub(super) fn stream(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `bound` (> 0) from 64 random bits, by multiplication.
pub(super) fn below(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_stay_inside_and_reach_both_ends() {
        assert_eq!(window_start(0, 8, 129, 1000), 0);
        assert_eq!(window_start(7, 8, 129, 1000), 871);
        assert_eq!(window_start(0, 1, 129, 129), 0);
    }

    #[test]
    fn splitmix_gives_its_published_first_values() {
        // Seed 1234567: the reference values of the algorithm's authors.
        let first: Vec<u64> = (0..3).map(|n| stream(1_234_567, n)).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        assert!((0..100).all(|n| below(stream(3, n), 7) < 7));
    }
}
