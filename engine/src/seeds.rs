//! Where every random number of a run comes from.
//!
//! All seeds are derived from the run's seed with BLAKE3 under a purpose and
//! a list of counters, so that the seed of any proposal or evaluation can be
//! computed without knowing what came before it. That is what makes `resume`
//! and any number of workers give the same run.

/// A seed for `purpose` at `counters`. It has 53 bits, so that it survives
/// SQLite's signed integers and JSON readers that know only doubles.
pub fn derive(run_seed: u64, purpose: &str, counters: &[u64]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("terrarium 2026 seeds v1");
    hasher.update(&run_seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    for counter in counters {
        hasher.update(&counter.to_le_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first) >> 11
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014): small, and its whole state is the seed.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`; 0 when `n` is 0. The bias is below n/2⁵³.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// An index with probability proportional to its weight; none when no
    /// weight is positive.
    pub fn weighted(&mut self, weights: &[f64]) -> Option<usize> {
        let total: f64 = weights.iter().filter(|w| **w > 0.0).sum();
        let mut left = self.unit() * total;
        let mut last = None;
        for (index, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            last = Some(index);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_outputs_are_the_published_ones() {
        // Reference outputs of SplitMix64 for seed 1234567.
        let mut rng = SplitMix64::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn seeds_differ_by_purpose_and_counter_and_fit_a_double() {
        let a = derive(1, "selection", &[0, 1]);
        assert_eq!(a, derive(1, "selection", &[0, 1]));
        assert_ne!(a, derive(1, "selection", &[1, 0]));
        assert_ne!(a, derive(1, "final", &[0, 1]));
        assert!(a < 1 << 53);
    }

    #[test]
    fn weights_are_respected() {
        let mut rng = SplitMix64::new(3);
        let mut hits = [0; 3];
        for _ in 0..3000 {
            hits[rng.weighted(&[2.0, 0.0, 1.0]).unwrap()] += 1;
        }
        assert_eq!(hits[1], 0);
        assert!((1800..2200).contains(&hits[0]), "{hits:?}");
        assert_eq!(rng.weighted(&[0.0, -1.0]), None);
        assert_eq!(rng.below(0), 0);
    }
}
