//! The trainer's job: `init`, `train`, then held-out scoring by the host with
//! the honesty probes woven in.
//!
//! The guest's only view of held-out data is the `tokens` tensor of `forward`,
//! which it cannot download. The host fills the logits with NaN before each
//! call, reads them after it, and computes the likelihood itself in f64.
//!
//! Three of the calls repeat an earlier batch with a change, at places that
//! depend on a key which the guest never sees:
//! * *idempotence*: no change; the logits must be the same to the bit, so
//!   nothing may be learnt from held-out data;
//! * *causality*: tokens after a position are altered; logits up to it must
//!   not move;
//! * *rows*: the rows are permuted; the logits must be permuted alike.

use super::evaluate::{Runner, micros};
use super::shards::{below, stream, window_start};
use super::state::{State, trainer};
use crate::{HeldOut, HeldOutScore, Outcome, Phase, Timing};
use std::time::Instant;
use terrarium_kernels::{DType, TensorId};
use wasmtime::Store;

/// How far a logit may move in the causality and row probes, relative to
/// max(1, |logit|): room for a kernel whose rounding depends on where in the
/// batch a row lies, far below what a leak would need to pay.
const TOLERANCE: f32 = 1.0 / 1024.0;

const VOCABULARY: usize = 256;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Probe {
    Idempotence,
    Causality,
    Rows,
}

/// One `forward` call.
#[derive(Clone, Copy)]
struct Visit {
    batch: usize,
    probe: Option<Probe>,
}

pub(super) fn run(
    runner: &Runner,
    guest: &trainer::MeteredTrainer,
    store: &mut Store<State>,
    held_out: &HeldOut,
    timing: &mut Timing,
    entered: &mut dyn FnMut(Phase),
) -> Result<HeldOutScore, Outcome> {
    let seed = store.data().evaluation.seed;
    enter(store, Phase::Init, entered);
    let start = Instant::now();
    let result = guest.call_init(&mut *store, seed);
    timing.init_us = micros(start.elapsed());
    runner.flatten(result, store, Phase::Init)?;

    enter(store, Phase::Train, entered);
    store.data_mut().train_started = Some(Instant::now());
    let before = store.data().kernel_time;
    let start = Instant::now();
    let result = guest.call_train(&mut *store);
    timing.train_us = micros(start.elapsed());
    timing.train_kernel_us = micros(store.data().kernel_time - before);
    runner.flatten(result, store, Phase::Train)?;
    store.data_mut().budget_refused = false;

    enter(store, Phase::Forward, entered);
    let start = Instant::now();
    let score = predict(runner, guest, store, held_out);
    timing.score_us = micros(start.elapsed());
    score
}

fn enter(store: &mut Store<State>, phase: Phase, entered: &mut dyn FnMut(Phase)) {
    store.data_mut().phase = phase;
    entered(phase);
}

/// The order of calls: every batch once, and each probe some time after the
/// batch that it repeats.
fn schedule(batches: usize, key: u64) -> Vec<Visit> {
    let mut visits: Vec<Visit> = (0..batches).map(|batch| Visit { batch, probe: None }).collect();
    for (n, probe) in [Probe::Idempotence, Probe::Causality, Probe::Rows].into_iter().enumerate() {
        let n = n as u64;
        let batch = below(stream(key, 2 * n), batches as u64) as usize;
        let first = visits.iter().position(|v| v.batch == batch && v.probe.is_none()).unwrap_or(0) + 1;
        let place = first + below(stream(key, 2 * n + 1), (visits.len() - first + 1) as u64) as usize;
        visits.insert(place, Visit { batch, probe: Some(probe) });
    }
    visits
}

fn predict(
    runner: &Runner,
    guest: &trainer::MeteredTrainer,
    store: &mut Store<State>,
    held_out: &HeldOut,
) -> Result<HeldOutScore, Outcome> {
    let host = |e: terrarium_kernels::Error| Outcome::DeviceLost { reason: e.to_string() };
    let (rows, context) = (held_out.rows as usize, held_out.context as usize);
    let batches = (held_out.windows as usize).div_ceil(rows.max(1));
    let windows = batches * rows;
    let Some(shards) = store.data().shards.clone() else {
        return Err(Outcome::Rejected { reason: "this worker was started without data".into() });
    };
    if rows < 2 || context < 2 || shards.held_out.len() <= context {
        return Err(Outcome::Rejected {
            reason: format!(
                "held-out scoring needs at least 2 rows of 2 tokens and a shard longer than the context; \
                 it has {rows} rows of {context} and {} tokens",
                shards.held_out.len()
            ),
        });
    }
    let window = |index: usize| {
        let start =
            window_start(index as u64, windows as u64, context as u64 + 1, shards.held_out.len() as u64)
                as usize;
        &shards.held_out[start..start + context + 1]
    };
    let device = &mut store.data_mut().device;
    let shape = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let tokens = device.alloc(DType::I32, &[held_out.rows, held_out.context]).map_err(host)?;
    let logits = device.alloc(DType::F32, &[shape(rows * context), VOCABULARY as u32]).map_err(host)?;

    let key = store.data().evaluation.probe_key;
    let mut window_nats = vec![0.0f64; windows];
    let mut kept: Vec<Option<Vec<f32>>> = vec![None; batches];
    let visits = schedule(batches, key);
    let probed: Vec<usize> = visits.iter().filter(|v| v.probe.is_some()).map(|v| v.batch).collect();
    let mut out = vec![0.0f32; rows * context * VOCABULARY];
    for (n, visit) in visits.iter().enumerate() {
        let change = Change::new(visit.probe, key, n as u64, rows, context);
        let batch: Vec<i32> = (0..rows)
            .flat_map(|row| {
                let from = window(visit.batch * rows + change.source_row(row));
                let change = &change;
                (0..context).map(move |t| change.token(i32::from(from[t]), t))
            })
            .collect();
        forward(runner, guest, store, (tokens, &batch), (logits, &mut out))?;
        match (visit.probe, &kept[visit.batch]) {
            (Some(probe), Some(original)) => check(probe, &change, original, &out, rows, context)?,
            _ => {
                for row in 0..rows {
                    let index = visit.batch * rows + row;
                    window_nats[index] = nats(
                        &out[row * context * VOCABULARY..][..context * VOCABULARY],
                        &window(index)[1..],
                    )?;
                }
                if probed.contains(&visit.batch) {
                    kept[visit.batch] = Some(out.clone());
                }
            }
        }
    }
    let bytes = (windows * context) as u64;
    let total: f64 = window_nats.iter().sum();
    Ok(HeldOutScore { bits_per_byte: total / (std::f64::consts::LN_2 * bytes as f64), window_nats, bytes })
}

/// One call of the guest's `forward`: logits are NaN before it, finite after.
fn forward(
    runner: &Runner,
    guest: &trainer::MeteredTrainer,
    store: &mut Store<State>,
    (tokens, batch): (TensorId, &[i32]),
    (logits, out): (TensorId, &mut [f32]),
) -> Result<(), Outcome> {
    let gone = |_| Outcome::HostDenied {
        call: "free".into(),
        reason: "the candidate freed a tensor of the host".into(),
    };
    out.fill(f32::NAN);
    let device = &mut store.data_mut().device;
    device.upload_i32(tokens, 0, batch).map_err(gone)?;
    device.upload_f32(logits, 0, out).map_err(gone)?;
    let result = guest.call_forward(&mut *store, tokens.to_bits(), logits.to_bits());
    runner.flatten(result, store, Phase::Forward)?;
    store.data_mut().device.download_f32(logits, 0, out).map_err(gone)?;
    match out.iter().position(|z| !z.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Outcome::NotFinite { what: format!("logit {at} of {} in `forward`", out.len()) }),
    }
}

/// What a probe changes about the batch that it repeats.
struct Change {
    /// Tokens after this position are altered.
    keep: usize,
    /// Added to altered tokens, modulo the vocabulary; never 0.
    add: i32,
    /// The rows are rotated by this.
    rotate: usize,
    rows: usize,
}

impl Change {
    fn new(probe: Option<Probe>, key: u64, n: u64, rows: usize, context: usize) -> Self {
        let draw = |k: u64, bound: usize| below(stream(key ^ 0x5bd1_e995, 3 * n + k), bound as u64) as usize;
        Self {
            keep: if probe == Some(Probe::Causality) { draw(0, context - 1) } else { context },
            add: 1 + draw(1, VOCABULARY - 1) as i32,
            rotate: if probe == Some(Probe::Rows) { 1 + draw(2, rows - 1) } else { 0 },
            rows,
        }
    }

    fn source_row(&self, row: usize) -> usize {
        (row + self.rotate) % self.rows
    }

    fn token(&self, token: i32, t: usize) -> i32 {
        if t <= self.keep { token } else { (token + self.add) % VOCABULARY as i32 }
    }
}

fn check(
    probe: Probe,
    change: &Change,
    original: &[f32],
    now: &[f32],
    rows: usize,
    context: usize,
) -> Result<(), Outcome> {
    let line = context * VOCABULARY;
    let upto = (change.keep + 1).min(context) * VOCABULARY;
    for row in 0..rows {
        let before = &original[change.source_row(row) * line..][..upto];
        let after = &now[row * line..][..upto];
        let moved = before.iter().zip(after).position(|(a, b)| match probe {
            Probe::Idempotence => a.to_bits() != b.to_bits(),
            Probe::Causality | Probe::Rows => (a - b).abs() > TOLERANCE * a.abs().max(1.0),
        });
        if let Some(at) = moved {
            let (name, detail) = match probe {
                Probe::Idempotence => ("idempotence", "the same batch gave other logits later"),
                Probe::Causality => ("causality", "a logit moved when only later tokens were altered"),
                Probe::Rows => ("rows", "a row's logits changed with its place in the batch"),
            };
            // The position is about held-out data: it is not told.
            let _ = at;
            return Err(Outcome::ProbeFailed { probe: name.into(), detail: detail.into() });
        }
    }
    Ok(())
}

/// Σ −ln p(target) over the positions of one window, in f64 with the largest
/// logit taken out first.
fn nats(logits: &[f32], targets: &[u8]) -> Result<f64, Outcome> {
    let mut sum = 0.0f64;
    for (z, &target) in logits.chunks_exact(VOCABULARY).zip(targets) {
        let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = z.iter().map(|&z| f64::from(z - max).exp()).sum();
        sum += total.ln() - f64::from(z[usize::from(target)] - max);
    }
    if sum.is_finite() { Ok(sum) } else { Err(Outcome::NotFinite { what: "the held-out likelihood".into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_is_visited_once_and_each_probe_follows_its_batch() {
        for key in 0..500 {
            let visits = schedule(5, key);
            assert_eq!(visits.len(), 8);
            for batch in 0..5 {
                assert_eq!(visits.iter().filter(|v| v.batch == batch && v.probe.is_none()).count(), 1);
            }
            for (i, visit) in visits.iter().enumerate().filter(|(_, v)| v.probe.is_some()) {
                assert!(visits[..i].iter().any(|v| v.batch == visit.batch && v.probe.is_none()));
            }
        }
    }

    #[test]
    fn uniform_logits_score_eight_bits_a_byte() {
        let score = nats(&[0.25; 3 * VOCABULARY], &[0, 7, 255]).unwrap();
        assert!((score / std::f64::consts::LN_2 - 24.0).abs() < 1e-12);
    }

    #[test]
    fn a_causality_change_alters_later_tokens_only() {
        for n in 0..50 {
            let change = Change::new(Some(Probe::Causality), 9, n, 4, 16);
            assert!((0..16).all(|t| (change.token(3, t) == 3) == (t <= change.keep)));
            assert!(change.keep < 15, "at least one token is altered");
            let rows = Change::new(Some(Probe::Rows), 9, n, 4, 16);
            assert!((0..4).all(|r| rows.source_row(r) != r));
        }
    }
}
