use super::*;
use crate::ids::{BlobId, CandidateId};
use crate::proposer::Index;
use crate::task::Direction;
use std::collections::{BTreeMap, BTreeSet};
use terrarium_sandbox::Knobs;

pub(crate) const SOURCE: &str = r#"//! A candidate. Ω
use std::f32::consts::PI;

// EVOLVE-BLOCK-START: main
/// How wide.
const WIDTH: usize = 64; // keep
fn forward(x: f32, y: f32) -> f32 {
    let lr = knobs::number("lr", 0.1, 0.0, 1.0, Linear);
    let mut a = x.relu() + 0.5f32; // Ω odd   spacing
    let b = y.tanh().max(x);
    let a2 = a   *  b - 3.0;
    if a < b && a2 >= 0.25 {
        a += vec![1.0, 2.0][0];
        a *= scale(b, true);
    }
    a = a.square();
    /* block
       comment */
    a + b * a2
}
// EVOLVE-BLOCK-END
fn fixed() -> bool { 1.0 < 2.0 && true }
// EVOLVE-BLOCK-START: other
fn scale(v: f32, on: bool) -> f32 { if on { v * 0.7 } else { -v } }
// EVOLVE-BLOCK-END
"#;

pub(crate) fn entry(source: &str) -> HistoryEntry {
    let source_id = BlobId::of(source.as_bytes());
    HistoryEntry {
        candidate: CandidateId::of(&source_id, &Knobs::new()),
        source: source.into(),
        source_id,
        knobs: Knobs::new(),
        score: Some(1.0),
        seeds: 1,
        outcome_code: "finished".into(),
        accepted: true,
        diagnostics: None,
        origin: Origin::baseline(),
        parent: None,
        record: None,
    }
}

pub(crate) fn history(entries: &[HistoryEntry]) -> History<'_> {
    // A test's index lives as long as the test.
    let index = Box::leak(Box::new(Index::of(Direction::Minimize, entries)));
    History { direction: Direction::Minimize, entries, knob_space: &[], index }
}

#[test]
fn every_operator_works_and_every_child_is_a_new_well_formed_edit() {
    let entries = [entry(SOURCE)];
    let mut operators = BTreeMap::new();
    for seed in 0..400 {
        let proposal = Mutate::default().propose(&history(&entries), &entries[0], seed).unwrap();
        assert_eq!(
            Some(&proposal),
            Mutate::default().propose(&history(&entries), &entries[0], seed).as_ref()
        );
        let child = proposal.source.unwrap();
        assert_eq!(evolve_block::check_edit(SOURCE, &child), Ok(()));
        assert!(rust_source::is_rust(&child));
        assert_ne!(rust_source::fingerprint(SOURCE), rust_source::fingerprint(&child));
        assert!(child.contains(r#"knobs::number("lr", 0.1, 0.0, 1.0, Linear)"#), "{child}");
        for comment in ["// keep", "/// How wide.", "/* block\n       comment */"] {
            assert!(child.contains(comment), "{comment}\n{child}");
        }
        *operators.entry(proposal.origin.operator).or_insert(0) += 1;
    }
    let missing: Vec<_> = OPERATORS.iter().filter(|(_, _, name)| !operators.contains_key(*name)).collect();
    assert!(missing.is_empty(), "{missing:?} in {operators:?}");
}

#[test]
fn nothing_is_proposed_twice_until_nothing_is_left() {
    let small = "// EVOLVE-BLOCK-START\nfn f(a: bool) -> bool { a && true }\n// EVOLVE-BLOCK-END\n";
    let mut entries = vec![entry(small)];
    let mut sources = BTreeSet::from([small.to_owned()]);
    let mut ended = false;
    for seed in 0..20 {
        match Mutate::default().propose(&history(&entries), &entries[0], seed) {
            Some(proposal) => {
                let source = proposal.source.unwrap();
                assert!(sources.insert(source.clone()), "{source}");
                entries.push(entry(&source));
            }
            None => ended = true,
        }
    }
    assert!(ended && entries.len() > 2, "{}", entries.len());
}

#[test]
fn what_did_not_compile_is_not_tried_again_at_that_site() {
    let parent = entry(SOURCE);
    let mut entries = vec![parent.clone()];
    let mut failed = BTreeSet::new();
    for seed in 0..120 {
        let Some(proposal) = Mutate::default().propose(&history(&entries), &parent, seed) else {
            break;
        };
        let site = proposal.origin.note.rsplit_once("[site ").unwrap().1.to_owned();
        assert!(failed.insert((proposal.origin.operator.clone(), site)), "{:?}", proposal.origin);
        let mut child = entry(&proposal.source.unwrap());
        (child.score, child.outcome_code, child.origin) = (None, "compile-error".into(), proposal.origin);
        entries.push(child);
    }
    assert!(failed.len() > 20, "{}", failed.len());
}

#[test]
fn sites_keep_their_names_when_lines_move() {
    let moved = SOURCE.replace("use std", "\n\n// more\nuse std");
    let keys = |source: &str| -> Vec<String> {
        rust_source::with_syntax_tree(source, |file| {
            sites::collect(file).iter().map(|s| site_key(source, s, "op")).collect()
        })
        .unwrap()
    };
    assert_eq!(keys(SOURCE), keys(&moved));
}

#[test]
fn what_is_no_rust_or_has_no_blocks_gets_no_proposal() {
    for source in [
        "",
        "fn f() { 1 + 1 }",
        "// EVOLVE-BLOCK-START\n((\n// EVOLVE-BLOCK-END",
        "// EVOLVE-BLOCK-START\n\n// EVOLVE-BLOCK-END",
    ] {
        assert_eq!(Mutate::default().propose(&history(&[]), &entry(source), 1), None);
    }
}
