//! Steps, fuel and seconds of the gpt template at its own sizes, run without
//! a sandbox on one thread: what the budget in its task.toml is set by.
//!
//! `cargo run --release --example calibrate [fuel] [text file] [knob=value …]`

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use terrarium_tests::native::{NativeConfig, NativeSession};

#[allow(dead_code)]
#[path = "../../guest-templates/gpt/candidate/candidate.rs"]
mod gpt;

/// Bytes with the statistics of nothing in particular: speed does not depend
/// on them.
fn noise() -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..100_000).map(|_| next()).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut fuel = 50e9;
    let mut text = None;
    let mut knobs = BTreeMap::new();
    for argument in std::env::args().skip(1) {
        if let Some((name, value)) = argument.split_once('=') {
            knobs.insert(name.to_owned(), value.parse()?);
        } else if let Ok(amount) = argument.parse() {
            fuel = amount;
        } else {
            text = Some(std::fs::read(&argument).map_err(|e| format!("cannot read {argument}: {e}"))?);
        }
    }
    let config = NativeConfig {
        text: text.unwrap_or_else(noise),
        device_fuel: fuel as u64,
        knobs,
        ..NativeConfig::default()
    };
    let context = config.context;
    let session = NativeSession::start(config)?;
    let mut trainer = gpt::native_trainer(1)?;
    let start = Instant::now();
    trainer.train()?;
    let seconds = start.elapsed().as_secs_f64();
    let record = session.record();
    for (name, step, value) in &record.metrics {
        println!("{name} {step} {value}");
    }
    let steps = record.metrics.iter().find(|m| m.0 == "steps").map_or(0.0, |m| m.2);
    println!(
        "{steps} steps of {context} tokens a row, {:.3e} fuel, {seconds:.3} s, {:.2} ms a step, {:.1} fuel/ns, peak {} bytes",
        record.fuel_used as f64,
        1e3 * seconds / steps,
        record.fuel_used as f64 / seconds / 1e9,
        record.peak_bytes
    );
    Ok(())
}
