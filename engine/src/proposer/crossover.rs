//! Proposals by taking whole evolve blocks, or single functions of them, from
//! a second parent.

use crate::candidate::Origin;
use crate::evolve_block::{self, EvolveBlock};
use crate::proposer::{History, HistoryEntry, Proposal, Proposer, mutate, rust_source};
use crate::seeds::SplitMix64;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Tries to find a child that is new.
const TRIES: usize = 24;
/// Second parents are drawn from this many of the best.
const MATES: usize = 12;
/// Of this many of the best candidates; many may share a source.
const LOOKED_AT: usize = 512;

/// The proposer `crossover`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crossover;

/// Something that both parents have and that differs.
struct Exchange {
    operator: &'static str,
    name: String,
    range: Range<usize>,
    text: String,
}

impl Proposer for Crossover {
    fn name(&self) -> &'static str {
        "crossover"
    }

    fn propose(&self, history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal> {
        let mates = mates(history, parent);
        if mates.is_empty() {
            return None;
        }
        rust_source::on_large_stack(|| cross(history, parent, &mates, seed)).flatten()
    }
}

/// The best candidates with another source, best first, one for each source.
fn mates<'h>(history: &History<'h>, parent: &HistoryEntry) -> Vec<&'h HistoryEntry> {
    let mut sources = std::collections::BTreeSet::new();
    history
        .best()
        .take(LOOKED_AT)
        .filter(|e| e.source_id != parent.source_id && sources.insert(&e.source_id))
        .take(MATES)
        .collect()
}

fn cross(
    history: &History<'_>,
    parent: &HistoryEntry,
    mates: &[&HistoryEntry],
    seed: u64,
) -> Option<Proposal> {
    let own = rust_source::fingerprint(&parent.source);
    let tried = |print: &str| print == own || history.index.knows(print);
    let mut rng = SplitMix64::new(seed);
    // By rank, twice as likely where the gate let it pass.
    let weight = |(rank, e): (usize, &&HistoryEntry)| f64::from(1 + u8::from(e.accepted)) / (1 + rank) as f64;
    let weights: Vec<f64> = mates.iter().enumerate().map(weight).collect();
    for _ in 0..TRIES {
        let mate = mates[rng.weighted(&weights)?];
        let exchanges = exchanges(&parent.source, &mate.source).unwrap_or_default();
        let Some(chosen) = exchanges.get(rng.below(exchanges.len())) else {
            continue;
        };
        let child =
            [&parent.source[..chosen.range.start], &chosen.text, &parent.source[chosen.range.end..]].concat();
        if rust_source::parse(&child).is_none()
            || evolve_block::check_edit(&parent.source, &child).is_err()
            || tried(&rust_source::fingerprint(&child))
        {
            continue;
        }
        let mut knobs = mate.knobs.clone();
        knobs.extend(parent.knobs.clone());
        return Some(Proposal {
            source: Some(child),
            knobs,
            parent: parent.candidate.clone(),
            second_parent: Some(mate.candidate.clone()),
            origin: Origin::new(
                "crossover",
                chosen.operator,
                format!("{} from {}", mutate::shortened(&chosen.name), mate.candidate.short()),
            ),
        });
    }
    None
}

fn exchanges(parent: &str, mate: &str) -> Option<Vec<Exchange>> {
    let (ours, theirs) = (evolve_block::parse(parent).ok()?, evolve_block::parse(mate).ok()?);
    let differ = |a: &str, b: &str| rust_source::fingerprint(a) != rust_source::fingerprint(b);
    let mut found = Vec::new();
    for (index, block) in ours.iter().enumerate() {
        let matching = |b: &&EvolveBlock| b.name.is_some() && b.name == block.name;
        let unnamed = || theirs.get(index).filter(|b| b.name == block.name && ours.len() == theirs.len());
        let Some(other) = theirs.iter().find(matching).or_else(unnamed) else {
            continue;
        };
        let text = &mate[other.body.clone()];
        if ours.len() > 1 && differ(&parent[block.body.clone()], text) {
            let name = block.name.clone().unwrap_or_else(|| format!("number {}", index + 1));
            found.push(Exchange {
                operator: "take-block",
                name: format!("block {name}"),
                range: block.body.clone(),
                text: text.to_owned(),
            });
        }
    }
    let theirs = functions(mate, &theirs)?;
    for (name, range) in functions(parent, &ours)? {
        let Some((_, other)) = theirs.iter().find(|(n, _)| *n == name) else {
            continue;
        };
        if differ(&parent[range.clone()], &mate[other.clone()]) {
            let text = mate[other.clone()].to_owned();
            found.push(Exchange { operator: "take-function", name: format!("fn {name}"), range, text });
        }
    }
    Some(found)
}

/// The functions within the blocks, by name (`Type::name` for methods).
fn functions(source: &str, blocks: &[EvolveBlock]) -> Option<Vec<(String, Range<usize>)>> {
    let file = rust_source::parse(source)?;
    let mut finder = Finder::default();
    finder.visit_file(&file);
    let inside = |r: &Range<usize>| blocks.iter().any(|b| b.body.start <= r.start && r.end <= b.body.end);
    Some(finder.found.into_iter().filter(|(_, range)| inside(range)).collect())
}

#[derive(Default)]
struct Finder {
    path: Vec<String>,
    found: Vec<(String, Range<usize>)>,
}

impl Finder {
    fn add(&mut self, name: &syn::Ident, range: Range<usize>) {
        let name = self.path.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>().join("::");
        self.found.push((name, range));
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig.ident, item.span().byte_range());
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig.ident, item.span().byte_range());
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.path.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.path.pop();
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        use quote::ToTokens;
        let of = item.trait_.as_ref().map(|(_, path, _)| path.to_token_stream().to_string());
        self.path.push(of.unwrap_or_default() + &item.self_ty.to_token_stream().to_string());
        visit::visit_item_impl(self, item);
        self.path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proposer::mutate::tests::{SOURCE, entry, history};
    use std::collections::BTreeSet;

    #[test]
    fn blocks_and_functions_come_from_the_second_parent() {
        let mate = entry(
            &SOURCE.replace("v * 0.7", "v * 0.9").replace("a.square()", "a.gelu()").replace("= 64", "= 32"),
        );
        let entries = [entry(SOURCE), mate.clone()];
        let mut operators = BTreeSet::new();
        for seed in 0..60 {
            let proposal = Crossover.propose(&history(&entries), &entries[0], seed).unwrap();
            assert_eq!(Some(&proposal), Crossover.propose(&history(&entries), &entries[0], seed).as_ref());
            assert_eq!(proposal.second_parent.as_ref(), Some(&mate.candidate));
            let child = proposal.source.unwrap();
            assert_eq!(evolve_block::check_edit(SOURCE, &child), Ok(()));
            if proposal.origin.operator == "take-function" && proposal.origin.note.starts_with("fn forward") {
                assert!(child.contains("gelu") && child.contains("= 64") && child.contains("0.7"), "{child}");
            }
            operators.insert(proposal.origin.operator + " " + &proposal.origin.note);
        }
        assert!(operators.len() >= 3, "{operators:?}");
    }

    #[test]
    fn there_is_nothing_to_take_from_a_copy_or_a_failure() {
        let mut failed = entry(&SOURCE.replace("0.7", "0.9"));
        failed.score = None;
        let copy = entry(&SOURCE.replace("// keep", "// kept"));
        let entries = [entry(SOURCE), failed, copy];
        assert_eq!(Crossover.propose(&history(&entries), &entries[0], 1), None);
        let foreign = [entry(SOURCE), entry("no rust ((")];
        assert_eq!(Crossover.propose(&history(&foreign), &foreign[0], 1), None);
    }
}
