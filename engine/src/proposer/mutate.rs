//! Proposals by mutating the syntax tree inside the evolve blocks.
//!
//! The tree only says where things are: a mutation replaces the bytes of one
//! node, so that comments and layout elsewhere stay as they are and nothing
//! outside the blocks can change.

mod operators;
mod sites;

use crate::candidate::Origin;
use crate::evolve_block;
use crate::proposer::{History, HistoryEntry, Proposal, Proposer, rust_source};
use crate::seeds::SplitMix64;
use operators::{OPERATORS, Scene};
use sites::Site;

/// Tries to find a mutation that is new and well-formed.
const TRIES: usize = 96;

/// Methods of the SDK and of numbers that may stand in for each other.
pub const METHOD_CLASSES: [&[&str]; 7] = [
    &["relu", "tanh", "sigmoid", "square", "abs", "silu", "gelu", "exp", "neg"],
    &["min", "max"],
    &["sin", "cos"],
    &["floor", "ceil", "round", "trunc"],
    &["sqrt", "cbrt", "ln_1p"],
    &["row_sum", "row_mean", "row_max"],
    &["saturating_add", "saturating_sub", "wrapping_add", "wrapping_sub", "saturating_mul"],
];

/// The proposer `mutate`.
#[derive(Clone, Debug)]
pub struct Mutate {
    /// Names of methods that may stand in for each other, by class.
    pub methods: Vec<Vec<String>>,
}

impl Default for Mutate {
    fn default() -> Self {
        let own = |class: &&[&str]| class.iter().map(|m| (*m).to_owned()).collect();
        Self { methods: METHOD_CLASSES.iter().map(own).collect() }
    }
}

impl Proposer for Mutate {
    fn name(&self) -> &'static str {
        "mutate"
    }

    fn propose(&self, history: &History<'_>, parent: &HistoryEntry, seed: u64) -> Option<Proposal> {
        let (source, operator, note) =
            rust_source::on_large_stack(|| mutation(&self.methods, history, parent, seed)).flatten()?;
        Some(Proposal {
            source: Some(source),
            knobs: parent.knobs.clone(),
            parent: parent.candidate.clone(),
            second_parent: None,
            origin: Origin::new("mutate", operator, note),
        })
    }
}

fn mutation(
    methods: &[Vec<String>],
    history: &History<'_>,
    parent: &HistoryEntry,
    seed: u64,
) -> Option<(String, &'static str, String)> {
    let source = &*parent.source;
    let file = rust_source::parse(source)?;
    let blocks = evolve_block::parse(source).ok()?;
    let mut sites = sites::collect(&file);
    sites.retain(|s| blocks.iter().any(|b| b.body.start <= s.range.start && s.range.end <= b.body.end));
    let own = rust_source::fingerprint(source);
    let tried = |print: &str| print == own || history.index.knows(print);
    let scene = Scene { source, sites: &sites, methods };
    let weights: Vec<f64> =
        OPERATORS.iter().map(|(_, weight, name)| weight * history.index.compiled_share(name)).collect();
    let mut rng = SplitMix64::new(seed);
    for _ in 0..TRIES {
        let (operator, _, name) = OPERATORS[rng.weighted(&weights)?];
        let fitting: Vec<&Site> = sites.iter().filter(|s| operators::applies(operator, &s.kind)).collect();
        let Some(site) = fitting.get(rng.below(fitting.len())) else {
            continue;
        };
        let key = site_key(source, site, name);
        if history.index.failed_at(name, &key) {
            continue;
        }
        let Some(edit) = operators::apply(operator, site, &scene, &mut rng) else {
            continue;
        };
        let inside =
            |b: &evolve_block::EvolveBlock| b.body.start <= edit.range.start && edit.range.end <= b.body.end;
        if !blocks.iter().any(inside) {
            continue;
        }
        let old = &source[edit.range.clone()];
        let child = [&source[..edit.range.start], &edit.text, &source[edit.range.end..]].concat();
        if rust_source::parse(&child).is_none()
            || evolve_block::check_edit(source, &child).is_err()
            || tried(&rust_source::fingerprint(&child))
        {
            continue;
        }
        let line = 1 + source[..site.range.start].matches('\n').count();
        let new = if edit.text.trim().is_empty() { "nothing".into() } else { shortened(&edit.text) };
        return Some((child, name, format!("line {line}: {} → {new} [site {key}]", shortened(old))));
    }
    None
}

/// What a site is called in notes: it depends on the tokens of the statement
/// around it and on the place in it, not on line numbers, so that it is found
/// again in descendants.
fn site_key(source: &str, site: &Site, operator: &str) -> String {
    let context = source.get(site.context.clone()).unwrap_or_default();
    let before = source.get(site.context.start..site.range.start).unwrap_or_default();
    let place = before.split_whitespace().map(str::len).sum::<usize>();
    let text = source.get(site.range.clone()).unwrap_or_default();
    let key = format!("{operator}\0{}\0{place}\0{text}", rust_source::fingerprint(context));
    blake3::hash(key.as_bytes()).to_hex()[..12].to_owned()
}

/// One line of at most 60 characters.
pub(super) fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 60 { line } else { line.chars().take(59).chain(['…']).collect() }
}

#[cfg(test)]
pub(crate) mod tests;
