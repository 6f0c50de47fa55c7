//! Honest scores: what is honest is never accused, and gets the same bits
//! wherever the probes are. What is not is tried in `tests/escape/scores`.

use terrarium_sandbox::{Outcome, World};
use terrarium_tests::glass::{self, guest, held_out, small_limits, train, train_with};

/// Keys that a cheat is tried with: where the probes go depends on them.
const KEYS: std::ops::Range<u64> = 0..12;

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
