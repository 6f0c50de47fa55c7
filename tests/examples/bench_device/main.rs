//! A device's side of the measurements in `kernels/cuda/bundle`: one question
//! a line on stdin, one JSON answer a line on stdout, so that this process and
//! its peer in PyTorch can be asked in turn. Times are in seconds. A question
//! that cannot be answered gets `{"error": …}`.
//!
//! `bench_device DEVICE`, which is `cpu` or `cuda:0`:
//!
//! - `kind`: the device's kind
//! - `time CASE…`: seconds of one operation, several samples; see `cases.rs`
//! - `compare CASE…`: the largest error against the CPU device, relative to
//!   1 + |value|, and whether a second run gave the same bits
//! - `model ROWS PARTS TIME VOCABULARY KNOB=VALUE…`: makes the model of the
//!   template gpt-h100 with knobs set
//! - `account`: the operations of one of its training steps, how many of each
//!   size there are, the flops of its matrix products and the bytes of its
//!   operands: at a machine's peaks one takes at least the longer of both
//! - `step N`: times of N of its training steps, between the ends of two
//! - `loss`: what it reported of its loss so far

mod cases;
mod training;

use std::io::{BufRead, Write};
use std::time::Instant;

use serde_json::{Value, json};
use terrarium_kernels::{CpuConfig, CudaConfig, Device};

use training::Training;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Samples of one `time`, and seconds that each should take.
const SAMPLES: usize = 5;
const SAMPLE_SECONDS: f64 = 0.02;
/// Most copies of an operation in a graph.
const MOST_COPIES: f64 = 200.0;
/// Most bytes of tensors on a card.
const CARD_BYTES: u64 = 70 << 30;

/// The number of the card, `None` for the CPU.
fn ordinal(name: &str) -> Result<Option<u32>> {
    match name.strip_prefix("cuda:") {
        Some(number) => Ok(Some(number.parse()?)),
        None if name == "cpu" => Ok(None),
        None => Err(format!("there is no device `{name}`; use cpu or cuda:0").into()),
    }
}

fn open(ordinal: Option<u32>) -> Result<Device> {
    let max_bytes = CARD_BYTES;
    Ok(match ordinal {
        Some(ordinal) => Device::cuda(CudaConfig { ordinal, max_bytes, ..CudaConfig::default() })?,
        None => Device::cpu(CpuConfig { max_bytes, ..CpuConfig::default() })?,
    })
}

/// Seconds of one operation, by graphs of many copies of it.
fn time(card: Option<u32>, words: &[&str]) -> Result<Value> {
    let mut device = open(card)?;
    let case = cases::build(&mut device, words, cases::Values::Device)?;
    let mut samples = |copies: usize, count: usize| -> Result<Vec<f64>> {
        let graph = device.prepare(vec![case.op.clone(); copies])?;
        // The first run loads kernels, the second captures the graph.
        device.run(&graph)?;
        device.run(&graph)?;
        let mut sample = || -> Result<f64> {
            let start = Instant::now();
            device.run(&graph)?;
            Ok(start.elapsed().as_secs_f64() / copies as f64)
        };
        (0..count).map(|_| sample()).collect()
    };
    let first = samples(1, 1)?[0];
    let copies = (SAMPLE_SECONDS / first.max(1e-7)).clamp(1.0, MOST_COPIES) as usize;
    let seconds = samples(copies, SAMPLES)?;
    Ok(json!({ "seconds": seconds, "flops": case.flops, "bytes": case.bytes, "copies": copies }))
}

/// Runs a case on the device, twice, and on the CPU.
fn compare(card: Option<u32>, words: &[&str]) -> Result<Value> {
    let run = |card| -> Result<Vec<Vec<f32>>> {
        let mut device = open(card)?;
        let case = cases::build(&mut device, words, cases::Values::Host)?;
        let graph = device.prepare(vec![case.op])?;
        device.run(&graph)?;
        case.results
            .iter()
            .map(|&id| {
                let count = device.shape(id)?.iter().map(|&d| d as usize).product();
                let mut out = vec![0.0; count];
                device.download_f32(id, 0, &mut out)?;
                Ok(out)
            })
            .collect()
    };
    let (first, second, wanted) = (run(card)?, run(card)?, run(None)?);
    let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
    let mut worst = 0.0f64;
    for (got, want) in first.iter().flatten().zip(wanted.iter().flatten()) {
        let error = f64::from((got - want).abs()) / (1.0 + f64::from(want.abs()));
        // NaN on one side only counts as the largest error.
        let error = if got.is_nan() != want.is_nan() { f64::INFINITY } else { error };
        worst = worst.max(error);
    }
    Ok(json!({
        "error_bound_unit": "of 1 + |value|",
        "worst": if worst.is_finite() { json!(worst) } else { json!("not finite") },
        "values": first.iter().map(Vec::len).sum::<usize>(),
        "same_bits_twice": bits(&first) == bits(&second),
    }))
}

fn answer(card: Option<u32>, question: &str, training: &mut Option<Training>) -> Result<Value> {
    let words: Vec<&str> = question.split_whitespace().collect();
    match words[..] {
        ["kind"] => Ok(json!(open(card)?.kind())),
        ["time", ref case @ ..] => time(card, case),
        ["compare", ref case @ ..] => compare(card, case),
        ["model", rows, parts, time, vocabulary, ref knobs @ ..] => {
            // One at a time: its memory is most of a card's.
            *training = None;
            let numbers = [rows.parse()?, parts.parse()?, time.parse()?, vocabulary.parse()?];
            *training = Some(Training::start(card, numbers, knobs)?);
            Ok(json!("started"))
        }
        ["account"] => training.as_mut().ok_or("`model` comes before `account`")?.account(),
        ["step", count] => {
            let training = training.as_mut().ok_or("`model` comes before `step`")?;
            let count = count.parse::<usize>()?;
            Ok(json!((0..count).map(|_| training.step()).collect::<Result<Vec<f64>>>()?))
        }
        ["loss"] => Ok(json!(training.take().ok_or("`model` comes before `loss`")?.finish()?)),
        _ => Err(format!("unknown question {question:?}; see the head of this program").into()),
    }
}

fn main() -> Result<()> {
    let card = ordinal(&std::env::args().nth(1).unwrap_or_else(|| "cpu".into()))?;
    let mut training = None;
    for line in std::io::stdin().lock().lines() {
        let value =
            answer(card, &line?, &mut training).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{value}")?;
        out.flush()?;
    }
    Ok(())
}
