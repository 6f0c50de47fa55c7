//! Honest scores: what looks at the future, at other rows or at earlier calls
//! is caught or gains nothing; what is honest is never accused.

use terrarium_sandbox::{Outcome, World};
use terrarium_tests::glass::{self, guest, held_out, small_limits, train, train_with};

/// Keys that a cheat is tried with: where the probes go depends on them.
const KEYS: std::ops::Range<u64> = 0..12;

/// The probes that caught this guest, one for each key that caught it.
fn caught(name: &str) -> Vec<String> {
    let component = guest(name, World::Trainer);
    KEYS.filter_map(|key| match train_with(&component, key, small_limits()).outcome {
        Outcome::ProbeFailed { probe, .. } => Some(probe),
        Outcome::Finished => None,
        other => panic!("{name}: {other}"),
    })
    .collect()
}

fn always_caught_by(name: &str, probe: &str) {
    let by = caught(name);
    assert_eq!(by.len(), KEYS.count(), "{name} got away: {by:?}");
    assert!(by.iter().any(|p| p == probe), "{name}: {by:?}");
}

#[test]
fn a_uniform_prediction_scores_exactly_eight_bits_per_byte() {
    let report = train(&guest("uniform", World::Trainer));
    let score = held_out(&report);
    assert_eq!(score.bits_per_byte, 8.0);
    assert_eq!(score.bytes, 256);
    assert_eq!(score.window_nats.len(), 16);
}

#[test]
fn an_honest_lookup_is_never_accused_and_scores_the_same_bits() {
    let component = guest("lookup", World::Trainer);
    let first = train_with(&component, 0, small_limits());
    for key in 1..40 {
        assert_eq!(held_out(&train_with(&component, key, small_limits())), held_out(&first), "key {key}");
    }
}

#[test]
fn the_gpt_template_is_never_accused_and_scores_the_same_bits() {
    let component = glass::build(&glass::template("gpt"), World::Trainer).expect("the template builds");
    let mut limits = small_limits();
    limits.device_fuel = 2_000_000_000;
    limits.device_bytes = 256 << 20;
    let first = train_with(&component, 0, limits.clone());
    assert!(
        first.metrics.iter().any(|m| m.name == "steps" && m.value >= 1.0),
        "it trained: {:?}",
        first.metrics
    );
    for key in 1..24 {
        let report = train_with(&component, 0x9e37_79b9 * key, limits.clone());
        assert_eq!(held_out(&report), held_out(&first), "key {key}");
    }
}

#[test]
fn looking_ahead_is_caught() {
    always_caught_by("looks_ahead", "causality");
}

#[test]
fn looking_ahead_behind_a_huge_constant_is_caught() {
    always_caught_by("looks_ahead_behind_an_offset", "causality");
}

#[test]
fn treating_the_first_row_in_another_way_is_caught() {
    always_caught_by("numbers_its_rows", "rows");
}

#[test]
fn predicting_a_row_from_its_neighbour_is_caught() {
    always_caught_by("copies_its_neighbour", "rows");
}

#[test]
fn pooling_over_the_rows_of_a_batch_is_caught() {
    always_caught_by("pools_the_batch", "rows");
}

#[test]
fn looking_ahead_in_every_second_call_is_caught_more_often_than_not() {
    let by = caught("counts_its_calls");
    assert!(2 * by.len() > KEYS.count(), "caught by {by:?} only");
}

#[test]
fn what_is_learnt_from_held_out_batches_is_gone_at_the_next() {
    // Either a probe sees it, or the weights that were touched are gone and
    // every batch is predicted without what the batches before it held.
    let component = guest("learns_while_predicting", World::Trainer);
    let mut caught = 0;
    for key in KEYS {
        match train_with(&component, key, small_limits()) {
            report if matches!(report.outcome, Outcome::ProbeFailed { .. }) => caught += 1,
            report => {
                // After the first batch (4 windows of 16 tokens) the table
                // is zeros: every byte is as likely as any other.
                let nats = &held_out(&report).window_nats;
                assert!(nats[4..].iter().all(|n| (n - 16.0 * 256f64.ln()).abs() < 1e-9), "{nats:?}");
            }
        }
    }
    assert!(caught > 0, "never caught");
}

#[test]
fn a_memory_of_earlier_batches_hides_no_look_ahead() {
    always_caught_by("remembers", "causality");
}

#[test]
fn held_out_tokens_cannot_be_spelled_out_by_index_errors() {
    let component = guest("spells_a_token", World::Trainer);
    let report = train(&component);
    let Outcome::HostDenied { call, .. } = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(call, "submit");
    let token = glass::text(2, 1).bytes().next().expect("a byte");
    let said = serde_json::to_string(&report).expect("JSON");
    assert!(!said.contains("the first token is"), "{token} was spelled: {said}");
}

#[test]
fn what_is_said_while_predicting_is_heard_by_nobody() {
    let report = train(&guest("speaks_while_predicting", World::Trainer));
    held_out(&report);
    assert!(report.log.is_empty() && report.metrics.is_empty(), "{:?} {:?}", report.log, report.metrics);
    assert!(!serde_json::to_string(&report).expect("JSON").contains("secret"));
}
