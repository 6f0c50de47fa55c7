//! The ledger: everything that a run did, in order, as a hash chain.
//!
//! Each event is one JSON text. Its hash is BLAKE3 (in a derive-key mode of
//! its own) over the previous hash, the sequence number and the text; the
//! first "previous hash" is 64 zeros. Whoever alters, removes or inserts an
//! event breaks every hash after it. Whoever cuts off the tail is caught by
//! `resume`, which computes the same events again, or by having noted the
//! last hash, which `terrarium run` prints.
//!
//! Nothing in an event depends on wall-clock time, on the number of workers
//! or on how often the run was interrupted.

use crate::candidate::Candidate;
use crate::evaluate::Split;
use crate::gate::Gain;
use crate::ids::{BlobId, CandidateId};
use crate::search::ResetReason;
use serde::{Deserialize, Serialize};

/// How the challenge of one candidate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// It passed the gate and is the new incumbent.
    Kept,
    /// It passed the gate, but another of its generation was better.
    Passed,
    /// An evaluation did not finish.
    Failed,
    /// Clearly worse on the first seed.
    Dropped,
    /// Not among the most promising of its generation.
    Outranked,
    /// Raced, and not better beyond noise.
    NotBetter,
    /// The evaluation budget ended before it was decided.
    OutOfBudget,
    /// The incumbent failed on the seeds of the race.
    NoRival,
}

/// A decision, and what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// In which generation.
    pub generation: u32,
    /// The challenger.
    pub candidate: CandidateId,
    /// The incumbent that it was compared with.
    pub incumbent: CandidateId,
    /// How it ended.
    pub ruling: Ruling,
    /// Paired differences, positive is better, in order of seeds.
    pub gains: Vec<f64>,
    /// Their mean and interval, from two pairs on. The interval is that of
    /// this comparison alone: it is not corrected for there being many.
    pub gain: Option<Gain>,
    /// The p-value that a look had to reach.
    pub threshold: f64,
    /// One line for people.
    pub reason: String,
}

/// Scores of one candidate over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreSummary {
    /// The candidate.
    pub candidate: CandidateId,
    /// Seeds, in order.
    pub seeds: Vec<u64>,
    /// Scores, in the same order; none where it failed.
    pub scores: Vec<Option<f64>>,
    /// Mean of those there are; none if there are none.
    pub mean: Option<f64>,
    /// Their sample standard deviation.
    pub sd: f64,
}

impl ScoreSummary {
    /// Summarises scores in order of `seeds`.
    pub fn new(candidate: CandidateId, seeds: Vec<u64>, scores: Vec<Option<f64>>) -> Self {
        let present: Vec<f64> = scores.iter().flatten().copied().collect();
        let (mean, sd) = crate::gate::mean_and_sd(&present);
        Self { candidate, seeds, scores, mean: (!present.is_empty()).then_some(mean), sd }
    }
}

/// The comparison at the end, on data and seeds that no decision saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinalComparison {
    /// The program that the task came with.
    pub baseline: ScoreSummary,
    /// The last incumbent; the baseline itself if nothing was kept.
    pub best: ScoreSummary,
    /// Paired gain of best over baseline; none if nothing was kept or fewer
    /// than two pairs finished.
    pub gain: Option<Gain>,
    /// Whether the gain's interval lies above zero.
    pub beats_noise: bool,
}

/// Why a run ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The evaluation budget is used up.
    Evals,
    /// The fuel budget is used up.
    Fuel,
    /// The wall-clock budget is used up. Such a run cannot be reproduced on
    /// another machine: how far it got depended on the machine's speed.
    Wall,
    /// No proposer had anything left to propose.
    NoProposals,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant)]
pub enum Event {
    /// The run began.
    Started {
        /// BLAKE3 of `run.toml`.
        config: BlobId,
        /// The run's seed.
        seed: u64,
    },
    /// A candidate was proposed; index 0 of generation 0 is the baseline.
    Proposed {
        /// Position in its generation.
        index: u32,
        /// The candidate.
        candidate: Candidate,
        /// The island that it belongs to.
        #[serde(default, skip_serializing_if = "is_zero")]
        island: u32,
    },
    /// A proposal was received that did not become a candidate.
    Unused {
        /// In which generation.
        generation: u32,
        /// Position in its generation.
        index: u32,
        /// Who made it.
        proposer: String,
        /// Why it is not used, in a line.
        reason: String,
    },
    /// A candidate was evaluated.
    Evaluated {
        /// The candidate.
        candidate: CandidateId,
        /// The data.
        split: Split,
        /// The seed.
        seed: u64,
        /// How it ended.
        outcome: String,
        /// Score, if it finished.
        score: Option<f64>,
        /// BLAKE3 of the record's deterministic fields.
        digest: BlobId,
    },
    /// The noise floor was measured on the baseline.
    NoiseFloor {
        /// Scores of the baseline.
        baseline: ScoreSummary,
    },
    /// A challenge was decided.
    Decided(Decision),
    /// There is a new incumbent, with seeds of its own.
    Crowned {
        /// In which generation.
        generation: u32,
        /// The new incumbent.
        candidate: CandidateId,
        /// Number of its reign, from which its seeds follow.
        reign: u32,
    },
    /// A candidate was copied to another island.
    Migrated {
        /// In which generation.
        generation: u32,
        /// Where it lives.
        from: u32,
        /// Where it also lives now.
        to: u32,
        /// The candidate.
        candidate: CandidateId,
    },
    /// An island was emptied and begun again.
    Reset {
        /// In which generation.
        generation: u32,
        /// Which.
        island: u32,
        /// Why.
        reason: ResetReason,
        /// The candidate that it begins with.
        founder: CandidateId,
    },
    /// The incumbent failed on fresh seeds and gave way to its predecessor.
    Demoted {
        /// In which generation.
        generation: u32,
        /// Who had to go.
        candidate: CandidateId,
        /// Who came back.
        successor: CandidateId,
    },
    /// The search ended before its last generation.
    Stopped {
        /// Generations that were completed.
        generation: u32,
        /// Why.
        reason: StopReason,
    },
    /// The final comparison.
    Final(FinalComparison),
}

fn is_zero(island: &u32) -> bool {
    *island == 0
}

impl Event {
    /// Its kind, as in the JSON's `event` and the table's column.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Proposed { .. } => "proposed",
            Self::Evaluated { .. } => "evaluated",
            Self::NoiseFloor { .. } => "noise-floor",
            Self::Decided(_) => "decided",
            Self::Crowned { .. } => "crowned",
            Self::Demoted { .. } => "demoted",
            Self::Unused { .. } => "unused",
            Self::Migrated { .. } => "migrated",
            Self::Reset { .. } => "reset",
            Self::Stopped { .. } => "stopped",
            Self::Final(_) => "final",
        }
    }

    /// Its canonical text: fields in the order of declaration, the shortest
    /// decimals that read back to the same bits.
    pub fn text(&self) -> String {
        // Serialising to a string cannot fail: all map keys are strings. Were
        // it to, the empty text would be caught by every reader.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Position, from 0.
    pub seq: u64,
    /// Canonical JSON of the event.
    pub text: String,
    /// Chain hash, hexadecimal.
    pub hash: String,
}

/// The hash before the first event.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Hash of an event in the chain.
pub fn chain_hash(previous: &str, seq: u64, text: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("terrarium 2026 ledger v1");
    hasher.update(previous.as_bytes());
    hasher.update(&seq.to_le_bytes());
    hasher.update(text.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// The first entry whose number, text or hash does not fit, and why.
pub fn first_break(entries: &[LedgerEntry]) -> Option<(u64, String)> {
    let mut previous = GENESIS;
    for (seq, entry) in (0u64..).zip(entries) {
        if entry.seq != seq {
            return Some((seq, format!("event {} stands where event {seq} should", entry.seq)));
        }
        if chain_hash(previous, seq, &entry.text) != entry.hash {
            return Some((seq, "its hash does not follow from its text and its predecessor".into()));
        }
        if let Err(error) = serde_json::from_str::<Event>(&entry.text) {
            return Some((seq, format!("it is not an event of this version: {error}")));
        }
        previous = &entry.hash;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: u64) -> Vec<LedgerEntry> {
        let mut previous = GENESIS.to_owned();
        (0..n)
            .map(|seq| {
                let text = Event::Started { config: BlobId::of(&seq.to_le_bytes()), seed: seq }.text();
                previous = chain_hash(&previous, seq, &text);
                LedgerEntry { seq, text, hash: previous.clone() }
            })
            .collect()
    }

    #[test]
    fn an_intact_chain_passes_and_each_kind_of_tampering_is_placed() {
        let good = chain(5);
        assert_eq!(first_break(&good), None);
        assert_eq!(first_break(&[]), None);
        let mut altered = good.clone();
        altered[2].text = altered[2].text.replace("\"seed\":2", "\"seed\":3");
        assert_eq!(first_break(&altered).map(|b| b.0), Some(2));
        let mut removed = good.clone();
        removed.remove(1);
        assert_eq!(first_break(&removed).map(|b| b.0), Some(1));
        let mut swapped = good.clone();
        swapped.swap(3, 4);
        assert_eq!(first_break(&swapped).map(|b| b.0), Some(3));
        // Re-hashing one altered event only moves the break to the next.
        let mut rehashed = altered;
        rehashed[2].hash = chain_hash(&rehashed[1].hash, 2, &rehashed[2].text);
        assert_eq!(first_break(&rehashed).map(|b| b.0), Some(3));
    }

    #[test]
    fn an_event_reads_back_to_the_same_text() {
        let gain = Gain::of(&[0.1, 0.2, 0.30000000000000004], 0.1);
        let event = Event::Decided(Decision {
            generation: 1,
            candidate: candidate(),
            incumbent: candidate(),
            ruling: Ruling::NotBetter,
            gains: vec![0.1, 1e-300],
            gain,
            threshold: 0.05 / 3.0,
            reason: "r".into(),
        });
        let text = event.text();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap().text(), text);
        assert!(text.starts_with("{\"event\":\"decided\""), "{text}");
    }

    fn candidate() -> CandidateId {
        CandidateId::of(&BlobId::of(b""), &terrarium_sandbox::Knobs::new())
    }
}
