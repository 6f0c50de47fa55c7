//! What proposers would otherwise search the whole history for: kept up to
//! date as candidates and results come in, so that a proposal costs the same
//! after a hundred thousand candidates as after a hundred.

use super::{HistoryEntry, rust_source};
use crate::ids::BlobId;
use crate::task::Direction;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Orders scores from best to worst, ties by number.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rank {
    badness: f64,
    number: usize,
}

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.badness.total_cmp(&other.badness).then(self.number.cmp(&other.number))
    }
}

/// How the children of one operator compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Compiled {
    tried: u32,
    failed: u32,
}

/// Lookups over a history.
#[derive(Clone, Debug)]
pub struct Index {
    direction: Direction,
    sources: HashMap<BlobId, String>,
    fingerprints: HashSet<String>,
    pairs: HashSet<(String, String)>,
    by_source: HashMap<BlobId, Vec<usize>>,
    ranking: BTreeSet<Rank>,
    badness: Vec<Option<f64>>,
    operators: HashMap<String, Compiled>,
    uncompiled: Vec<bool>,
    dead_sites: HashSet<String>,
}

impl Index {
    /// Of nothing yet.
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            sources: HashMap::new(),
            fingerprints: HashSet::new(),
            pairs: HashSet::new(),
            by_source: HashMap::new(),
            ranking: BTreeSet::new(),
            badness: Vec::new(),
            operators: HashMap::new(),
            uncompiled: Vec::new(),
            dead_sites: HashSet::new(),
        }
    }

    /// Of these entries.
    pub fn of(direction: Direction, entries: &[HistoryEntry]) -> Self {
        let mut index = Self::new(direction);
        for (number, entry) in entries.iter().enumerate() {
            index.add(entry);
            index.learn(number, entry);
        }
        index
    }

    /// Takes in the next entry; its number is how many there were before.
    pub fn add(&mut self, entry: &HistoryEntry) {
        let number = self.badness.len();
        let form = self.normal_form(&entry.source_id, &entry.source);
        self.pairs.insert((form.clone(), knobs_text(entry)));
        if self.sources.insert(entry.source_id.clone(), form).is_none() {
            self.fingerprints.insert(rust_source::fingerprint(&entry.source));
        }
        self.by_source.entry(entry.source_id.clone()).or_default().push(number);
        self.badness.push(None);
        self.uncompiled.push(false);
        self.operators.entry(entry.origin.operator.clone()).or_default().tried += 1;
    }

    /// Takes in what is now known of an entry.
    pub fn learn(&mut self, number: usize, entry: &HistoryEntry) {
        let badness = entry.score.filter(|s| s.is_finite()).map(|s| self.direction.gain(0.0, s));
        if let Some(old) = self.badness[number] {
            self.ranking.remove(&Rank { badness: old, number });
        }
        self.badness[number] = badness;
        if let Some(badness) = badness {
            self.ranking.insert(Rank { badness, number });
        }
        if entry.outcome_code == "compile-error" && !self.uncompiled[number] {
            self.uncompiled[number] = true;
            self.operators.entry(entry.origin.operator.clone()).or_default().failed += 1;
            if let Some(site) = site_of(&entry.origin.note) {
                self.dead_sites.insert(format!("{} {site}", entry.origin.operator));
            }
        }
    }

    /// The normal form of a source, computed once for each.
    fn normal_form(&self, id: &BlobId, source: &str) -> String {
        match self.sources.get(id) {
            Some(form) => form.clone(),
            None => rust_source::normal_form(source),
        }
    }

    /// Whether some source with these tokens was tried.
    pub fn knows(&self, fingerprint: &str) -> bool {
        self.fingerprints.contains(fingerprint)
    }

    /// Whether a copy of this source was tried with these knobs (as JSON). A
    /// copy may differ in comments, layout and the names of what it declares.
    pub fn is_copy(&self, id: &BlobId, source: &str, knobs: &str) -> bool {
        self.pairs.contains(&(self.normal_form(id, source), knobs.to_owned()))
    }

    /// Entries with this source, in order.
    pub fn of_source(&self, id: &BlobId) -> &[usize] {
        self.by_source.get(id).map_or(&[], Vec::as_slice)
    }

    /// Sources tried.
    pub fn sources(&self) -> usize {
        self.by_source.len()
    }

    /// Entries that have a score, best first.
    pub fn best(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranking.iter().map(|rank| rank.number)
    }

    /// Share of an operator's children that compiled, with two that did assumed.
    pub fn compiled_share(&self, operator: &str) -> f64 {
        let seen = self.operators.get(operator).copied().unwrap_or_default();
        f64::from(seen.tried - seen.failed + 2) / f64::from(seen.tried + 2)
    }

    /// Whether this operator failed to compile at this site before.
    pub fn failed_at(&self, operator: &str, site: &str) -> bool {
        self.dead_sites.contains(&format!("{operator} {site}"))
    }
}

/// The site that `mutate` wrote at the end of its note.
fn site_of(note: &str) -> Option<&str> {
    note.rsplit_once("[site ")?.1.strip_suffix(']')
}

fn knobs_text(entry: &HistoryEntry) -> String {
    serde_json::to_string(&entry.knobs).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Origin;
    use crate::proposer::mutate::tests::entry;

    #[test]
    fn the_index_says_what_a_scan_would() {
        let mut entries: Vec<HistoryEntry> =
            ["fn f() { 1; }", "fn f() { 2; }", "fn f() { 3; }"].into_iter().map(entry).collect();
        for (k, e) in entries.iter_mut().enumerate() {
            e.score = (k != 2).then_some(2.0 - k as f64);
            e.origin = Origin::new("mutate", "swap", format!("line 1 [site s{k}]"));
        }
        entries[2].outcome_code = "compile-error".into();
        let mut index = Index::of(Direction::Minimize, &entries);
        assert_eq!(index.best().collect::<Vec<_>>(), [1, 0]);
        assert!(index.failed_at("swap", "s2") && !index.failed_at("swap", "s1"));
        assert_eq!(index.compiled_share("swap"), 4.0 / 5.0);
        assert_eq!(index.compiled_share("other"), 1.0);
        entries[0].score = Some(-1.0);
        index.learn(0, &entries[0]);
        index.learn(2, &entries[2]);
        assert_eq!(index.best().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(index.compiled_share("swap"), 4.0 / 5.0, "told twice, counted once");
        let copy = "fn f() {  1; } // again";
        assert!(index.is_copy(&BlobId::of(copy.as_bytes()), copy, "{}"));
        assert!(!index.is_copy(&BlobId::of(copy.as_bytes()), copy, "{\"x\":1.0}"));
        assert_eq!(index.of_source(&entries[1].source_id), [1]);
    }
}
