//! Trains the gpt template, with everything that it has switched on, for
//! fifty steps, and leaves weights, batches and losses for
//! `tests/peers/parity.py`, which trains the same model in PyTorch.
//!
//! `cargo run --release --example parity FOLDER`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use serde_json::json;
use terrarium_sdk::{Dtype, Tensor};
use terrarium_tests::native::{NativeConfig, NativeSession};

#[allow(dead_code)]
#[path = "../../guest-templates/gpt/candidate/candidate.rs"]
mod gpt;

const STEPS: usize = 50;
const DEPTH: u32 = 4;
const CONTEXT: u32 = 64;
const ROWS: u32 = 8;

/// All knobs that the peer has to know, so that the template's defaults may
/// change: grouped queries, windows, weight decay, second moments, warm-up and
/// warm-down are on.
const KNOBS: [(&str, f64); 23] = [
    ("depth", DEPTH as f64),
    ("head_dim_by_8", 4.0),
    ("heads", 2.0),
    ("queries_per_key", 2.0),
    ("mlp_expansion", 4.0),
    ("windows", 3.0),
    ("value_embeddings", 1.0),
    ("softcap", 15.0),
    ("rope_base", 10_000.0),
    ("batch_rows", ROWS as f64),
    ("train_context", 1.0),
    ("weight_decay", 0.1),
    ("second_moment", 1.0),
    ("matrix_rate", 0.01),
    ("momentum", 0.9),
    ("beta1", 0.9),
    ("beta2", 0.95),
    ("embedding_rate", 0.03),
    ("head_rate", 0.002),
    ("scalar_rate", 0.01),
    ("warmup", 0.1),
    ("warmdown", 0.4),
    ("final_rate", 0.1),
];

fn knob(name: &str) -> f64 {
    KNOBS.into_iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("no knob {name}")).1
}

/// The handle of the device's n-th tensor: generation 1, slot n.
const fn handle(n: u64) -> u64 {
    1 << 32 | n
}

fn text() -> Vec<u8> {
    let words = ["fn", "let", "mut", "match", "self", "value", "=>", "{", "}", ";\n"];
    let mut state = 1u32;
    let mut out = Vec::new();
    while out.len() < 40_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend(words[(state >> 24) as usize % words.len()].bytes());
        out.push(b' ');
    }
    out
}

fn config(device_fuel: u64) -> NativeConfig {
    let knobs = BTreeMap::from(KNOBS.map(|(name, value)| (name.to_owned(), value)));
    NativeConfig { text: text(), context: CONTEXT, device_fuel, knobs, ..NativeConfig::default() }
}

/// The tensors that `init` made, in order: shapes, and all values.
/// Shapes, and all values one after the other.
type Weights = (Vec<Vec<u32>>, Vec<f32>);

fn weights() -> Result<Weights, Box<dyn Error>> {
    let (mut shapes, mut values) = (Vec::new(), Vec::new());
    while let Ok(tensor) = Tensor::lent(handle(shapes.len() as u64), Dtype::Float32) {
        values.extend(tensor.to_vec()?);
        shapes.push(tensor.shape().to_vec());
    }
    Ok((shapes, values))
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name the folder to write to")?;
    let folder = Path::new(&folder);
    // What one step costs: the budget is fifty of them, and what init takes.
    let step = {
        let session = NativeSession::start(config(20_000_000_000))?;
        gpt::native_trainer(1)?.train()?;
        let record = session.record();
        let found = record.metrics.iter().find(|m| m.0 == "step_fuel");
        found.ok_or("the template reports no step_fuel")?.2
    };
    let batch = f64::from(8 * ROWS * CONTEXT);
    let session = NativeSession::start(config(((step + batch) * (STEPS as f64 + 0.5)) as u64))?;
    let mut trainer = gpt::native_trainer(1)?;
    let (shapes, values) = weights()?;
    // The loop allocates tokens, targets and the loss first, in this order.
    session.watch(handle(shapes.len() as u64 + 2));
    trainer.train()?;
    let record = session.record();
    if record.watched.len() != STEPS {
        return Err(format!("{} steps instead of {STEPS}", record.watched.len()).into());
    }
    // As `Schedule::at`, with the knobs above.
    let (warmup, warmdown, floor) = (knob("warmup"), knob("warmdown"), knob("final_rate"));
    let factor = |progress: f64| {
        let left = 1.0 - progress;
        let down = if left < warmdown { floor + (1.0 - floor) * left / warmdown } else { 1.0 };
        if progress < warmup { (progress / warmup).max(0.01) } else { down }
    };
    let factors: Vec<f64> = record.progress[..STEPS].iter().map(|&p| factor(p)).collect();
    let last = DEPTH - 1;
    let windows: Vec<u32> =
        (0..DEPTH).map(|i| if i != last && i % 4 < 3 { CONTEXT / 2 } else { 0 }).collect();
    let value_layers: Vec<bool> = (0..DEPTH).map(|i| (last - i).is_multiple_of(2)).collect();
    let run = json!({
        "shapes": shapes,
        "rows": ROWS,
        "losses": record.watched,
        "factors": factors,
        "model": {
            "depth": DEPTH, "heads": 2, "kv_heads": 1, "head_dim": 32, "time": CONTEXT,
            "windows": windows, "value_layers": value_layers,
            "softcap": knob("softcap"), "rope_base": knob("rope_base"),
        },
        "optimizers": {
            "matrix_rate": knob("matrix_rate"), "momentum": knob("momentum"),
            "weight_decay": knob("weight_decay"), "second_moment": 0.95,
            "beta1": knob("beta1"), "beta2": knob("beta2"), "embedding_rate": knob("embedding_rate"),
            "head_rate": knob("head_rate"), "scalar_rate": knob("scalar_rate"),
        },
    });
    std::fs::write(folder.join("run.json"), run.to_string())?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("weights.f32"), bytes)?;
    let bytes: Vec<u8> = record.batches.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("batches.i32"), bytes)?;
    Ok(())
}
