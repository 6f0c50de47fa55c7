//! Honest scores: what is honest is never accused, and gets the same bits
//! wherever the probes are. What is not is tried in `tests/escape/scores`.

use std::collections::BTreeMap;

use terrarium_sandbox::{Component, Evaluation, KnobRange, KnobScale, KnobValue, Knobs, Outcome, World};
use terrarium_tests::glass::{self, guest, held_out, small_limits, train, train_with, training};

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

/// Honest models: the gpt template as it is, with another activation, without
/// the last norm, without a cap on its predictions, and with experts.
fn honest_models() -> Vec<(&'static str, Component)> {
    let gpt = glass::template("gpt");
    let changed = |from: &str, to: &str| {
        assert!(gpt.contains(from), "the template has no `{from}` any more");
        gpt.replace(from, to)
    };
    let sources = [
        ("gpt", gpt.clone()),
        ("gpt with GELU", changed("Activation::ReluSquared", "Activation::Gelu")),
        (
            "gpt without a norm at the end",
            changed("        t.rms_norm(x, EPS)\n    }", "        Ok(x)\n    }"),
        ),
        ("gpt without a cap on its predictions", changed("cap * (e[0] * (1.0 / cap)).tanh()", "e[0]")),
        ("gpt-moe", glass::template("gpt-moe")),
    ];
    let build = |source: &str| glass::build(source, World::Trainer).expect("an honest model builds");
    sources.iter().map(|(name, source)| (*name, build(source))).collect()
}

/// SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A value from the whole of a knob's range.
fn anywhere(range: &KnobRange, state: &mut u64) -> KnobValue {
    let share = next(state) as f64 / u64::MAX as f64;
    match range {
        KnobRange::Number { low, high, scale: KnobScale::Logarithmic, .. } => {
            KnobValue::Number(low * (high / low).powf(share))
        }
        KnobRange::Number { low, high, .. } => KnobValue::Number(low + share * (high - low)),
        KnobRange::Integer { low, high, .. } => {
            KnobValue::Integer((*low as f64 + share * (high - low) as f64).round() as i64)
        }
        KnobRange::Choice { options, .. } => KnobValue::Choice((share * options.len() as f64) as u32),
    }
}

/// Evaluates honest models `count` times, each time with another seed, key and
/// third of the knobs anywhere in their ranges. Whoever is accused fails it.
/// Returns how many were scored: a run that diverges or does not fit has no
/// score, but is no cheat either.
fn accuse_nobody(count: u64) -> u64 {
    let mut limits = small_limits();
    limits.device_fuel = 1_500_000_000;
    limits.device_bytes = 512 << 20;
    limits.wall_ms = 60_000;
    let models = honest_models();
    let ranges: Vec<_> = models.iter().map(|(_, model)| train_with(model, 0, limits.clone()).knobs).collect();
    let mut scored = 0;
    for number in 0..count {
        let mut state = number;
        let at = (number % models.len() as u64) as usize;
        let (name, model) = &models[at];
        let mut knobs: Knobs = BTreeMap::new();
        for (knob, range) in &ranges[at] {
            if next(&mut state).is_multiple_of(3) {
                knobs.insert(knob.clone(), anywhere(range, &mut state));
            }
        }
        let key = next(&mut state);
        let evaluation = Evaluation { seed: number, ..training(key, limits.clone()) }.with_knobs(knobs);
        let report = glass::sandbox().run(model, &evaluation).expect("the host is well");
        match &report.outcome {
            Outcome::Finished => scored += 1,
            Outcome::NotFinite { .. } | Outcome::DeviceFuel { .. } => {}
            other => panic!("{name}, evaluation {number}: {other}; {:?}", evaluation.knobs),
        }
    }
    scored
}

#[test]
fn honest_models_are_not_accused() {
    let scored = accuse_nobody(20);
    assert!(scored >= 16, "only {scored} of 20 were scored");
}

/// `cargo test --release --workspace --test probes -- --ignored --nocapture`
#[test]
#[ignore = "a thousand trainings take half a minute of two cores: cargo test --release --workspace --test probes -- --ignored"]
fn honest_models_are_not_accused_in_a_thousand_evaluations() {
    let scored = accuse_nobody(1_000);
    println!("1000 evaluations of honest models: none accused, {scored} scored");
    assert!(scored >= 800, "only {scored} of 1000 were scored");
}
