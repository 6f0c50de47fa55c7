//! Byte-pair encoding (Sennrich, Haddow & Birch, ACL 2016) over bytes: a
//! vocabulary trained on a text, and the tokens of a text.
//!
//! Tokens 0 to 255 are the bytes themselves, so any text can be spelled; each
//! further token is two earlier ones side by side. Text is cut into pieces
//! first (`pieces.rs`), and no token crosses from one piece into the next. The
//! commonest pair is merged next and, of equally common ones, that with the
//! lower numbers: the same text gives the same vocabulary on every machine.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::num::NonZero;

use serde::{Deserialize, Serialize};

use super::pieces::pieces;

/// Tokens of the plain bytes.
pub const BYTES: u32 = 256;

/// Largest vocabulary.
pub const MAX_VOCABULARY: u32 = 1 << 20;

/// Longest token, in bytes: what a piece can hold.
const MAX_TOKEN_BYTES: usize = super::pieces::MAX_BYTES;

const SCHEMA: &str = "terrarium-bpe/1";

/// Pieces whose tokens are remembered, in each thread.
const REMEMBERED: usize = 1 << 18;

type Pair = (u32, u32);

/// How a vocabulary is kept on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    schema: String,
    /// In the order in which they were learnt: two tokens, and what they make.
    merges: Vec<(u32, u32, u32)>,
}

/// A trained vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    merges: Vec<(Pair, u32)>,
    /// The place in `merges` of each pair: lower comes first.
    ranks: HashMap<Pair, u32>,
    token_bytes: Vec<u32>,
}

impl Bpe {
    /// The token of byte 0, which ends a document. No merge has it, since no
    /// text has that byte.
    pub const END: u32 = 0;

    /// Trains a vocabulary of `size` tokens on these texts; fewer, if they have
    /// fewer pairs.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str>, size: u32) -> Self {
        let mut trainer = Trainer::new(texts);
        while trainer.tokens.len() < size as usize && trainer.merge() {}
        let lengths = trainer.tokens.iter().map(|token| token.len() as u32).collect();
        Self::new(trainer.merges, lengths)
    }

    fn new(merges: Vec<(Pair, u32)>, token_bytes: Vec<u32>) -> Self {
        let ranks = merges.iter().zip(0..).map(|((pair, _), rank)| (*pair, rank)).collect();
        Self { merges, ranks, token_bytes }
    }

    /// Reads what [`Bpe::json`] wrote. `Err` says what is wrong with it.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if stored.schema != SCHEMA {
            return Err(format!("its schema is `{}`, not `{SCHEMA}`", stored.schema));
        }
        let mut token_bytes = vec![1u32; BYTES as usize];
        let mut merges = Vec::with_capacity(stored.merges.len());
        for (a, b, makes) in stored.merges {
            let length = |token: u32| token_bytes.get(token as usize).copied();
            let (Some(first), Some(second)) = (length(a), length(b)) else {
                return Err(format!("the merge of {a} and {b} comes before them"));
            };
            let sum = first.saturating_add(second);
            match length(makes) {
                None if makes as usize == token_bytes.len() => token_bytes.push(sum),
                Some(known) if known == sum => {}
                _ => return Err(format!("{a} and {b} cannot make {makes}")),
            }
            merges.push(((a, b), makes));
        }
        Ok(Self::new(merges, token_bytes))
    }

    /// As it is kept on disk.
    pub fn json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let merges = self.merges.iter().map(|&((a, b), makes)| (a, b, makes)).collect();
        serde_json::to_vec(&Stored { schema: SCHEMA.to_owned(), merges })
    }

    /// Bytes of text that each token stands for, by token.
    pub fn token_bytes(&self) -> &[u32] {
        &self.token_bytes
    }

    /// The tokens of each text, in order, on all cores.
    pub fn encode(&self, texts: &[String]) -> Vec<Vec<u32>> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = texts.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let started: Vec<_> = texts
                .chunks(share)
                .map(|share| {
                    scope.spawn(move || {
                        let mut known = HashMap::new();
                        share.iter().map(|text| self.encode_one(text, &mut known)).collect::<Vec<_>>()
                    })
                })
                .collect();
            let joined = started.into_iter().map(|thread| {
                // It has nothing to panic for; if it does, so do we.
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.flatten().collect()
        })
    }

    fn encode_one<'a>(&self, text: &'a str, known: &mut HashMap<Vec<u8>, Vec<u32>>) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(text.len() / 2);
        for piece in pieces(text) {
            let piece: &'a [u8] = piece.as_bytes();
            if let Some(found) = known.get(piece) {
                tokens.extend_from_slice(found);
                continue;
            }
            let of = self.encode_piece(piece);
            tokens.extend_from_slice(&of);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(piece.to_vec(), of);
        }
        tokens
    }

    /// The merges in the order in which they were learnt, each at every place
    /// from left to right. A piece is short.
    fn encode_piece(&self, piece: &[u8]) -> Vec<u32> {
        let mut tokens: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
        loop {
            let ranks = tokens.windows(2).filter_map(|w| self.ranks.get(&(w[0], w[1])));
            let Some((pair, makes)) = ranks.min().and_then(|&rank| self.merges.get(rank as usize)) else {
                return tokens;
            };
            replace(&mut tokens, *pair, *makes);
        }
    }
}

/// Puts `makes` for the pair, wherever it is, from left to right.
fn replace(tokens: &mut Vec<u32>, pair: Pair, makes: u32) {
    let (mut from, mut to) = (0, 0);
    while from < tokens.len() {
        let here = tokens[from] == pair.0 && tokens.get(from + 1) == Some(&pair.1);
        tokens[to] = if here { makes } else { tokens[from] };
        from += if here { 2 } else { 1 };
        to += 1;
    }
    tokens.truncate(to);
}

/// The state of training.
struct Trainer {
    /// The bytes of each token.
    tokens: Vec<Vec<u8>>,
    known: HashMap<Vec<u8>, u32>,
    merges: Vec<(Pair, u32)>,
    /// Each different piece, as tokens, and how often the text has it.
    words: Vec<(Vec<u32>, u64)>,
    counts: HashMap<Pair, u64>,
    /// Words that may hold a pair.
    places: HashMap<Pair, HashSet<u32>>,
    /// Pairs by count; an entry whose count is not the pair's own any more is
    /// put back with the right one.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Trainer {
    fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut pieces_seen: HashMap<&str, u64> = HashMap::new();
        for text in texts {
            for piece in pieces(text) {
                *pieces_seen.entry(piece).or_default() += 1;
            }
        }
        let mut words: Vec<(&str, u64)> = pieces_seen.into_iter().collect();
        words.sort_unstable();
        let spell = |word: &str| word.bytes().map(u32::from).collect();
        let words: Vec<(Vec<u32>, u64)> = words.into_iter().map(|(word, n)| (spell(word), n)).collect();
        let mut counts: HashMap<Pair, u64> = HashMap::new();
        let mut places: HashMap<Pair, HashSet<u32>> = HashMap::new();
        for ((word, times), at) in words.iter().zip(0..) {
            for pair in word.windows(2).map(|w| (w[0], w[1])) {
                *counts.entry(pair).or_default() += times;
                places.entry(pair).or_default().insert(at);
            }
        }
        let tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        Self {
            known: tokens.iter().cloned().zip(0..).collect(),
            tokens,
            merges: Vec::new(),
            words,
            queue: counts.iter().map(|(pair, count)| (*count, Reverse(*pair))).collect(),
            counts,
            places,
        }
    }

    /// Merges the commonest pair; false when there is none.
    fn merge(&mut self) -> bool {
        let pair = loop {
            let Some((count, Reverse(pair))) = self.queue.pop() else { return false };
            match self.counts.get(&pair).copied().unwrap_or(0) {
                0 => {}
                now if now == count => break pair,
                now => self.queue.push((now, Reverse(pair))),
            }
        };
        let bytes = [self.tokens[pair.0 as usize].as_slice(), &self.tokens[pair.1 as usize]].concat();
        debug_assert!(bytes.len() <= MAX_TOKEN_BYTES);
        let next = self.tokens.len() as u32;
        let makes = *self.known.entry(bytes.clone()).or_insert(next);
        if makes == next {
            self.tokens.push(bytes);
        }
        self.merges.push((pair, makes));
        let mut grown: HashSet<Pair> = HashSet::new();
        for at in self.places.remove(&pair).unwrap_or_default() {
            let (word, times) = &mut self.words[at as usize];
            for old in word.windows(2).map(|w| (w[0], w[1])) {
                if let Some(count) = self.counts.get_mut(&old) {
                    *count = count.saturating_sub(*times);
                }
            }
            replace(word, pair, makes);
            for new in word.windows(2).map(|w| (w[0], w[1])) {
                *self.counts.entry(new).or_default() += *times;
                if new.0 == makes || new.1 == makes {
                    self.places.entry(new).or_default().insert(at);
                    grown.insert(new);
                }
            }
        }
        self.counts.remove(&pair);
        for pair in grown {
            let count = self.counts.get(&pair).copied().unwrap_or(0);
            self.queue.push((count, Reverse(pair)));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spell(bpe: &Bpe, tokens: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        for ((a, b), makes) in &bpe.merges {
            let joined = [bytes[*a as usize].clone(), bytes[*b as usize].clone()].concat();
            if *makes as usize == bytes.len() {
                bytes.push(joined);
            } else {
                assert_eq!(bytes[*makes as usize], joined);
            }
        }
        tokens.iter().flat_map(|&token| bytes[token as usize].clone()).collect()
    }

    #[test]
    fn the_commonest_pair_is_merged_first() {
        // " abab": three times; ab: 6 times, then abab and its space.
        let bpe = Bpe::train(["abab abab abab"].into_iter(), 260);
        let (a, b) = (u32::from(b'a'), u32::from(b'b'));
        assert_eq!(bpe.merges[0], ((a, b), 256));
        assert_eq!(bpe.merges[1], ((256, 256), 257));
        assert_eq!(bpe.merges[2], ((u32::from(b' '), 257), 258));
        assert_eq!(bpe.token_bytes()[256..], [2, 4, 5], "and there is no more to merge");
        assert_eq!(bpe.encode(&["abab ab abc".into()]), [[257, 32, 256, 32, 256, u32::from(b'c')]]);
    }

    #[test]
    fn of_equally_common_pairs_the_lower_one_is_merged_first_whatever_the_order_of_texts() {
        let texts = ["let it be", "be it let", "it let be", "zz yy xx"];
        let one = Bpe::train(texts.into_iter(), 300);
        let two = Bpe::train(texts.into_iter().rev(), 300);
        assert_eq!(one.merges, two.merges);
        // `be`, `it`, `le` and `et` come three times each.
        assert_eq!(one.merges[0].0, (u32::from(b'b'), u32::from(b'e')));
    }

    #[test]
    fn what_was_written_is_read_and_nonsense_is_refused() {
        let bpe = Bpe::train(["one two one two three"].into_iter(), 270);
        let read = Bpe::read(&bpe.json().expect("written")).expect("read");
        assert_eq!((&read.merges, read.token_bytes()), (&bpe.merges, bpe.token_bytes()));
        for bad in [
            "{}",
            r#"{"schema":"terrarium-bpe/2","merges":[]}"#,
            r#"{"schema":"terrarium-bpe/1","merges":[[1,2,257]]}"#,
            r#"{"schema":"terrarium-bpe/1","merges":[[1,256,256]]}"#,
            r#"{"schema":"terrarium-bpe/1","merges":[[1,2,3]]}"#,
        ] {
            assert!(Bpe::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_spelled_and_its_tokens_have_its_length(
            train in "[ab \n]{0,200}", texts in proptest::collection::vec("\\PC{0,60}|[ab \n]{0,60}", 1..4)
        ) {
            let bpe = Bpe::train([train.as_str()].into_iter(), 300);
            for (text, tokens) in texts.iter().zip(bpe.encode(&texts)) {
                prop_assert_eq!(spell(&bpe, &tokens), text.as_bytes());
                let bytes: u32 = tokens.iter().map(|&t| bpe.token_bytes()[t as usize]).sum();
                prop_assert_eq!(bytes as usize, text.len());
            }
        }

        #[test]
        fn counts_stay_those_of_the_words(text in "[abc ]{0,120}") {
            let mut trainer = Trainer::new([text.as_str()].into_iter());
            while trainer.merge() {
                let mut counted: HashMap<Pair, u64> = HashMap::new();
                for (word, times) in &trainer.words {
                    for pair in word.windows(2) {
                        *counted.entry((pair[0], pair[1])).or_default() += times;
                    }
                }
                let kept: HashMap<Pair, u64> =
                    trainer.counts.iter().filter(|(_, n)| **n > 0).map(|(p, n)| (*p, *n)).collect();
                prop_assert_eq!(kept, counted);
            }
        }
    }
}
