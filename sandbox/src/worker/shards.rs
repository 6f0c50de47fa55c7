//! Token shards, mapped before the worker gives up the right to open files.

use crate::Shards;
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Longest token, in bytes of text: a longer one is a damaged file.
const MAX_TOKEN_BYTES: u32 = 1 << 16;

/// The two splits, and what their tokens stand for.
pub(super) struct Mapped {
    pub train: Tokens,
    pub held_out: Tokens,
    /// Bytes of text that each token stands for, by token.
    token_bytes: Vec<u32>,
}

impl Mapped {
    pub fn open(shards: &Shards) -> Result<Self, String> {
        let token_bytes = match &shards.token_bytes {
            None => vec![1; 256],
            Some(path) => read_token_bytes(path)?,
        };
        let vocabulary = token_bytes.len();
        let width = if shards.token_bytes.is_none() { 1 } else { crate::token_width(vocabulary) };
        let open = |path: &Path| Tokens::open(path, width, vocabulary);
        Ok(Self { train: open(&shards.train)?, held_out: open(&shards.held_out)?, token_bytes })
    }

    /// Tokens are 0..vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.token_bytes.len()
    }

    /// Bytes of text that these tokens stand for.
    pub fn bytes_of(&self, tokens: &[i32]) -> u64 {
        let one = |&token: &i32| usize::try_from(token).ok().and_then(|t| self.token_bytes.get(t));
        tokens.iter().filter_map(one).map(|&bytes| u64::from(bytes)).sum()
    }
}

/// One u32 (little-endian) for each token.
fn read_token_bytes(path: &Path) -> Result<Vec<u32>, String> {
    let file = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (lengths, rest) = file.as_chunks::<4>();
    let lengths: Vec<u32> = lengths.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let sound = rest.is_empty() && lengths.len() >= 2 && i32::try_from(lengths.len()).is_ok();
    if !sound || lengths.iter().any(|&bytes| bytes > MAX_TOKEN_BYTES) {
        return Err(format!("{} is no table of token lengths", path.display()));
    }
    Ok(lengths)
}

/// One shard: tokens of 1, 2 or 4 bytes each, little-endian.
pub(super) struct Tokens {
    map: Mmap,
    width: usize,
    vocabulary: usize,
    name: String,
}

impl Tokens {
    fn open(path: &Path, width: usize, vocabulary: usize) -> Result<Self, String> {
        let map = map(path)?;
        if !map.len().is_multiple_of(width) {
            return Err(format!("{} ends within a token of {width} bytes", path.display()));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { map, width, vocabulary, name })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.map.len() / self.width
    }

    /// Appends the tokens `start..start + count`. A token that is not in the
    /// vocabulary means that the file is damaged; it is named.
    pub fn read(&self, start: usize, count: usize, out: &mut Vec<i32>) -> Result<(), String> {
        let span = (self.width * start)..(self.width * (start + count));
        let Some(bytes) = self.map.get(span) else {
            return Err(format!("{} has no tokens {start}..{}", self.name, start + count));
        };
        let before = out.len();
        match self.width {
            1 => out.extend(bytes.iter().map(|&byte| i32::from(byte))),
            2 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| i32::from(u16::from_le_bytes(*b)))),
            _ => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b))),
        }
        let inside = |token: &i32| usize::try_from(*token).is_ok_and(|t| t < self.vocabulary);
        match out[before..].iter().position(|token| !inside(token)) {
            None => Ok(()),
            Some(at) => Err(format!(
                "{}: token {} is not in the vocabulary of {}",
                self.name,
                start + at,
                self.vocabulary
            )),
        }
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
    #[test]
    fn tokens_of_every_width_are_read_and_what_is_damaged_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let lengths =
            |count: usize| (0..count as u32).flat_map(|n| (n % 7).to_le_bytes()).collect::<Vec<u8>>();
        for (count, width, token) in [(300usize, 2, 299i32), (70_000, 4, 69_999)] {
            let table = write("token_bytes.bin", &lengths(count));
            let tokens: Vec<u8> =
                [0, token, 1].iter().flat_map(|t: &i32| t.to_le_bytes()[..width].to_vec()).collect();
            let whole = write("whole.bin", &tokens);
            let shards = Shards { train: whole.clone(), held_out: whole, token_bytes: Some(table) };
            let mapped = Mapped::open(&shards).unwrap();
            assert_eq!((mapped.vocabulary(), mapped.train.len()), (count, 3));
            let mut read = vec![5];
            mapped.train.read(1, 2, &mut read).unwrap();
            assert_eq!(read, [5, token, 1]);
            assert_eq!(mapped.bytes_of(&read[1..]), token as u64 % 7 + 1);
            assert!(mapped.train.read(2, 2, &mut read).is_err());

            let cut = Shards { train: write("cut.bin", &tokens[1..]), ..shards.clone() };
            assert!(Mapped::open(&cut).err().unwrap().contains("cut.bin ends within a token"));
            let wrong = vec![0xff; width];
            let wrong = Shards { train: write("wrong.bin", &wrong), ..shards };
            let said = Mapped::open(&wrong).unwrap().train.read(0, 1, &mut read).unwrap_err();
            assert!(said.contains("wrong.bin: token 0 is not in the vocabulary"), "{said}");
        }
        let bytes = write("bytes.bin", b"ab\xff");
        let mapped =
            Mapped::open(&Shards { train: bytes.clone(), held_out: bytes.clone(), token_bytes: None })
                .unwrap();
        let mut read = Vec::new();
        mapped.train.read(0, 3, &mut read).unwrap();
        assert_eq!((read.as_slice(), mapped.vocabulary()), ([97, 98, 255].as_slice(), 256));
        assert_eq!(mapped.bytes_of(&read), 3);
        let no_table = Shards { train: bytes.clone(), held_out: bytes.clone(), token_bytes: Some(bytes) };
        assert!(Mapped::open(&no_table).err().unwrap().contains("is no table of token lengths"));
    }
}
