//! The task templates, compiled into this test and run without a sandbox.

use std::collections::BTreeMap;

use terrarium_sdk::Tensor;
use terrarium_tests::native::{NativeConfig, NativeRecord, NativeSession};

#[path = "../../guest-templates/circles/candidate/candidate.rs"]
mod circles;
#[path = "../../guest-templates/gpt/candidate/candidate.rs"]
mod gpt;

/// A text with structure that a small model picks up quickly.
fn text() -> Vec<u8> {
    let words = [
        "fn", "let", "mut", "match", "self", "value", "=>", "{", "}", ";\n",
    ];
    let mut state = 1u32;
    let mut out = Vec::new();
    while out.len() < 40_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend(words[(state >> 24) as usize % words.len()].bytes());
        out.push(b' ');
    }
    out
}

fn small(threads: usize, steps: f64) -> NativeConfig {
    let knobs = [
        ("head_dim_by_8", 2.0),
        ("batch_rows", 4.0),
        ("depth", 2.0),
        ("queries_per_key", 2.0),
        ("windows", 1.0),
    ];
    NativeConfig {
        threads,
        text: text(),
        context: 32,
        device_fuel: (steps * 1e9) as u64,
        knobs: BTreeMap::from(knobs.map(|(k, v)| (k.to_owned(), v))),
        ..NativeConfig::default()
    }
}

/// Trains, then predicts one batch of [2, 32]. Returns the logits.
fn train_and_predict(config: NativeConfig) -> (NativeRecord, Vec<f32>) {
    let session = NativeSession::start(config).unwrap();
    let mut trainer = gpt::native_trainer(7).unwrap();
    trainer.train().unwrap();
    let record = session.record();
    let tokens = Tensor::zeros_int(&[2, 32]).unwrap();
    tokens
        .upload_ints(&text()[..64].iter().map(|&b| b.into()).collect::<Vec<_>>())
        .unwrap();
    let logits = Tensor::zeros(&[64, 256]).unwrap();
    (record, {
        trainer.forward(&tokens, &logits).unwrap();
        logits.to_vec().unwrap()
    })
}

#[test]
fn gpt_learns_within_its_budget() {
    let (record, _) = train_and_predict(small(1, 4.0));
    let losses: Vec<f64> = record
        .metrics
        .iter()
        .filter(|m| m.0 == "train_loss")
        .map(|m| m.2)
        .collect();
    println!(
        "{:?} fuel {} peak {}",
        record.metrics, record.fuel_used, record.peak_bytes
    );
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(
        last < 2.0,
        "ln 256 is 5.5; the loss ended at {last}, from {first}"
    );
    assert!(record.fuel_used <= 4_000_000_000);
}
