//! The trainer's job: `init`, `train`, then held-out scoring by the host with
//! the honesty probes woven in.
//!
//! The guest's only view of held-out data is the `tokens` tensor of `forward`,
//! which it cannot download. The host fills the logits with NaN before each
//! call, reads them after it, and computes the likelihood itself in f64.
//!
//! Some of the calls repeat an earlier batch with a change, at places that
//! depend on a key which the guest never sees:
//! * *idempotence*: no change; the logits must be the same to the bit, so
//!   nothing may be learnt from held-out data;
//! * *causality* (half of the batches): tokens after a position are altered;
//!   log-probabilities up to it must not move;
//! * *rows*: the rows are shuffled and a quarter of them holds other text; the
//!   log-probabilities of the others must be shuffled alike.
//!
//! A guest with a memory could answer a probe with what it said before. It has
//! none: after each call the device zeroes everything that was computed from
//! the tokens, and the guest's own memory cannot learn anything of them.

use super::evaluate::{Runner, micros};
use super::shards::{below, stream, window_start};
use super::state::{State, trainer};
use crate::{HeldOut, HeldOutScore, Outcome, Phase, Timing};
use std::time::Instant;
use terrarium_kernels::{DType, ErrorCode, TensorId};
use wasmtime::Store;

/// How far a log-probability may move in the row probe, relative to max(1,
/// |log-probability|): room for a kernel whose rounding depends on where in the
/// batch a row lies. Logits are not compared: a constant added to all of them
/// changes no probability, but would widen a relative tolerance at will.
const ROWS_TOLERANCE: f64 = 1.0 / 1024.0;

/// The same in the causality probe. No row moves there, so nothing has to be
/// rounded in another way; and who may shift each prediction by a thousandth
/// towards a byte that it has looked up gains a thousandth of a bit a byte,
/// evaluation after evaluation, which a gate takes for an improvement.
const CAUSALITY_TOLERANCE: f64 = 1.0 / 65_536.0;

/// Most logits of earlier batches that are kept for probes, in numbers. Where
/// all that wait would be more, each probe comes right after its batch: a
/// guest remembers nothing between calls, so it gains nothing by that.
const MAX_KEPT: usize = 64 << 20;

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
    // From here on `budget` is no clock.
    store.data_mut().train_started = None;

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

/// Most causality probes of one evaluation: the logits of their batches are
/// kept until the probe comes.
const MAX_CAUSALITY: usize = 16;

/// The order of calls: every batch once, and each probe some time after the
/// batch that it repeats. Half of the batches are probed for causality: who
/// looks ahead in one call of many gains little, and must not get away with it
/// in evaluation after evaluation. `at_once`: probes come right after their
/// batch.
fn schedule(batches: usize, key: u64, at_once: bool) -> Vec<Visit> {
    let mut draws = 0;
    let mut draw = |bound: usize| {
        draws += 1;
        below(stream(key, draws), bound as u64) as usize
    };
    // A random selection without repetition (Fisher and Yates).
    let mut selected: Vec<usize> = (0..batches).collect();
    let causality = batches.div_ceil(2).clamp(1, MAX_CAUSALITY).min(batches);
    for n in 0..causality {
        let other = n + draw(batches - n);
        selected.swap(n, other);
    }
    selected.truncate(causality);
    let mut probes: Vec<(Probe, usize)> = selected.into_iter().map(|b| (Probe::Causality, b)).collect();
    probes.push((Probe::Idempotence, draw(batches)));
    probes.push((Probe::Rows, draw(batches)));

    let mut visits: Vec<Visit> = (0..batches).map(|batch| Visit { batch, probe: None }).collect();
    for (probe, batch) in probes {
        let first = visits.iter().position(|v| v.batch == batch && v.probe.is_none()).unwrap_or(0) + 1;
        let place = if at_once { first } else { first + draw(visits.len() - first + 1) };
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
    let limits = store.data().evaluation.limits.clone();
    // The candidate left no room for one batch and its logits.
    let full = |e: terrarium_kernels::Error| match e.code() {
        ErrorCode::OutOfMemory => Outcome::Quota { which: "device_bytes".into(), limit: limits.device_bytes },
        ErrorCode::Quota => Outcome::Quota { which: "tensors".into(), limit: limits.tensors },
        _ => Outcome::DeviceLost { reason: e.to_string() },
    };
    let (rows, context) = (held_out.rows as usize, held_out.context as usize);
    let batches = (held_out.windows as usize).div_ceil(rows.max(1));
    let windows = batches * rows;
    let Some(shards) = store.data().shards.clone() else {
        return Err(Outcome::Rejected { reason: "this worker was started without data".into() });
    };
    if rows < 2 || context < 2 || windows == 0 || shards.held_out.len() <= context {
        return Err(Outcome::Rejected {
            reason: format!(
                "held-out scoring needs a window, at least 2 rows of 2 tokens and a shard longer than the context; \
                 it has {rows} rows of {context} and {} tokens",
                shards.held_out.len()
            ),
        });
    }
    let mut held = vec![0i32; windows * (context + 1)];
    let mut one = Vec::with_capacity(context + 1);
    for (index, window) in held.chunks_exact_mut(context + 1).enumerate() {
        let total = shards.held_out.len() as u64;
        let start = window_start(index as u64, windows as u64, context as u64 + 1, total);
        one.clear();
        let damaged = |reason| Outcome::Rejected { reason };
        shards.held_out.read(start as usize, context + 1, &mut one).map_err(damaged)?;
        window.copy_from_slice(&one);
    }
    let window = |index: usize| &held[index * (context + 1)..][..context + 1];
    let vocabulary = shards.vocabulary();
    let device = &mut store.data_mut().device;
    let shape = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let tokens = device.alloc(DType::I32, &[held_out.rows, held_out.context]).map_err(full)?;
    let logits = device.alloc(DType::F32, &[shape(rows * context), shape(vocabulary)]).map_err(full)?;

    let key = store.data().evaluation.probe_key;
    let mut window_nats = vec![0.0f64; windows];
    let mut kept: Vec<Option<Vec<f32>>> = vec![None; batches];
    let size = rows * context * vocabulary;
    let at_once = size.saturating_mul(batches.min(MAX_CAUSALITY + 2)) > MAX_KEPT;
    let visits = schedule(batches, key, at_once);
    let mut out = vec![0.0f32; size];
    for (n, visit) in visits.iter().enumerate() {
        let change = Change::new(visit.probe, key, n as u64, (rows, context), vocabulary);
        let batch: Vec<i32> = (0..rows)
            .flat_map(|row| {
                let from = window(visit.batch * rows + change.source_row(row));
                let change = &change;
                (0..context).map(move |t| change.token(from[t], row, t))
            })
            .collect();
        forward(runner, guest, store, (tokens, &batch), (logits, &mut out))?;
        match (visit.probe, &kept[visit.batch]) {
            (Some(probe), Some(original)) => check(probe, &change, original, &out, vocabulary)?,
            _ => {
                for row in 0..rows {
                    let index = visit.batch * rows + row;
                    let line = &out[row * context * vocabulary..][..context * vocabulary];
                    window_nats[index] = nats(line, &window(index)[1..], vocabulary)?;
                }
            }
        }
        // Kept as long as a probe of this batch is to come.
        let probed = visits[n + 1..].iter().any(|v| v.batch == visit.batch && v.probe.is_some());
        match (probed, visit.probe) {
            (true, None) => kept[visit.batch] = Some(out.clone()),
            (true, Some(_)) => {}
            (false, _) => kept[visit.batch] = None,
        }
    }
    let bytes = (0..windows).map(|index| shards.bytes_of(&window(index)[1..])).sum();
    let bits_per_byte = bits_per_byte(&window_nats, bytes)?;
    Ok(HeldOutScore { bits_per_byte, window_nats, bytes })
}

/// Σ nats / (ln 2 · bytes): what the text costs per byte, whatever its tokens.
fn bits_per_byte(window_nats: &[f64], bytes: u64) -> Result<f64, Outcome> {
    if bytes == 0 {
        let reason = "the held-out tokens stand for no text at all".to_owned();
        return Err(Outcome::Rejected { reason });
    }
    Ok(window_nats.iter().sum::<f64>() / (std::f64::consts::LN_2 * bytes as f64))
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
    device.mark_secret(tokens).map_err(gone)?;
    let result = guest.call_forward(&mut *store, tokens.to_bits(), logits.to_bits());
    runner.flatten(result, store, Phase::Forward)?;
    let device = &mut store.data_mut().device;
    device.download_f32(logits, 0, out).map_err(gone)?;
    device.forget_secrets();
    // Which one is not told: a candidate that chooses it by what it reads would
    // spell held-out text by it.
    if out.iter().all(|z| z.is_finite()) {
        return Ok(());
    }
    Err(Outcome::NotFinite { what: "a logit in `forward`".into() })
}

/// What a probe changes about the batch that it repeats.
struct Change {
    /// Tokens after this position are altered.
    keep: usize,
    /// Added to altered tokens, modulo the vocabulary; never 0.
    add: i64,
    vocabulary: i64,
    /// The row of the original batch that each row is.
    source: Vec<usize>,
    /// Whether a row holds other text, all of it altered.
    replaced: Vec<bool>,
}

impl Change {
    fn new(
        probe: Option<Probe>,
        key: u64,
        n: u64,
        (rows, context): (usize, usize),
        vocabulary: usize,
    ) -> Self {
        let draw = |k: usize, bound: usize| {
            let place = n.wrapping_mul(1 << 20).wrapping_add(k as u64);
            below(stream(key ^ 0x5bd1_e995, place), bound as u64) as usize
        };
        let mut change = Self {
            keep: if probe == Some(Probe::Causality) { draw(0, context - 1) } else { context },
            add: 1 + draw(1, vocabulary - 1) as i64,
            vocabulary: vocabulary as i64,
            source: (0..rows).collect(),
            replaced: vec![false; rows],
        };
        if probe == Some(Probe::Rows) {
            // Sattolo's algorithm: one random cycle, so that no row stays.
            for last in (1..rows).rev() {
                change.source.swap(last, draw(2 + last, last));
            }
            let first = draw(2, rows);
            for row in first..first + (rows / 4).max(1) {
                change.replaced[row % rows] = true;
            }
        }
        change
    }

    fn source_row(&self, row: usize) -> usize {
        self.source[row]
    }

    fn token(&self, token: i32, row: usize, t: usize) -> i32 {
        let kept = t <= self.keep && !self.replaced[row];
        // Below the vocabulary, which an i32 holds.
        if kept { token } else { ((i64::from(token) + self.add) % self.vocabulary) as i32 }
    }
}

fn check(
    probe: Probe,
    change: &Change,
    original: &[f32],
    now: &[f32],
    vocabulary: usize,
) -> Result<(), Outcome> {
    let rows = change.source.len();
    let line = original.len() / rows;
    let upto = ((change.keep + 1) * vocabulary).min(line);
    for row in (0..rows).filter(|&row| !change.replaced[row]) {
        let before = &original[change.source_row(row) * line..][..upto];
        let after = &now[row * line..][..upto];
        let moved = match probe {
            Probe::Idempotence => before.iter().zip(after).any(|(a, b)| a.to_bits() != b.to_bits()),
            Probe::Causality | Probe::Rows => {
                let most = if probe == Probe::Rows { ROWS_TOLERANCE } else { CAUSALITY_TOLERANCE };
                before
                    .chunks_exact(vocabulary)
                    .zip(after.chunks_exact(vocabulary))
                    .any(|(a, b)| prediction_moved(a, b, most))
            }
        };
        if moved {
            // The position is about held-out data: it is not told.
            let (name, detail) = match probe {
                Probe::Idempotence => ("idempotence", "the same batch gave other logits later"),
                Probe::Causality => ("causality", "a prediction moved when only later tokens were altered"),
                Probe::Rows => {
                    ("rows", "a row's prediction changed with its place in the batch or with other rows")
                }
            };
            return Err(Outcome::ProbeFailed { probe: name.into(), detail: detail.into() });
        }
    }
    Ok(())
}

/// Whether two predictions for one position differ by more than `most` in any
/// log-probability.
fn prediction_moved(before: &[f32], after: &[f32], most: f64) -> bool {
    let (a0, b0) = (log_sum_exp(before), log_sum_exp(after));
    before.iter().zip(after).any(|(&a, &b)| {
        let (a, b) = (f64::from(a) - a0, f64::from(b) - b0);
        (a - b).abs() > most * a.abs().max(1.0)
    })
}

/// ln Σ exp(z), in f64 with the largest logit taken out first.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&z| (f64::from(z) - max).exp()).sum::<f64>().ln()
}

/// Σ −ln p(target) over the positions of one window, in f64 with the largest
/// logit taken out first.
fn nats(logits: &[f32], targets: &[i32], vocabulary: usize) -> Result<f64, Outcome> {
    let mut sum = 0.0f64;
    for (z, &target) in logits.chunks_exact(vocabulary).zip(targets) {
        let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = z.iter().map(|&z| f64::from(z - max).exp()).sum();
        // The shard was read with its tokens checked.
        let said = usize::try_from(target).ok().and_then(|t| z.get(t)).copied().unwrap_or(f32::NAN);
        sum += total.ln() - f64::from(said - max);
    }
    if sum.is_finite() { Ok(sum) } else { Err(Outcome::NotFinite { what: "the held-out likelihood".into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_is_visited_once_and_each_probe_follows_its_batch() {
        for key in 0..500 {
            let visits = schedule(5, key, key % 2 == 0);
            assert_eq!(visits.len(), 5 + 3 + 1 + 1);
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
        let score = nats(&[0.25; 3 * 256], &[0, 7, 255], 256).unwrap();
        assert!((score / std::f64::consts::LN_2 - 24.0).abs() < 1e-12);
    }

    #[test]
    fn bits_per_byte_are_those_of_the_text_whatever_its_tokens() {
        // Three tokens of a vocabulary of four: `a` (1 byte), `the ` (4), `\0` (1).
        // p(a) = 1/2, p(the ) = 1/4, p(\0) = 1/8: 1 + 2 + 3 bits over 6 bytes.
        let p = |of: [f32; 4]| of.map(f32::ln);
        let logits: Vec<f32> =
            [p([0.5, 0.25, 0.125, 0.125]), p([0.25, 0.25, 0.25, 0.25]), p([0.5, 0.25, 0.125, 0.125])]
                .concat();
        let sum = nats(&logits, &[0, 1, 2], 4).unwrap();
        assert!((bits_per_byte(&[sum], 1 + 4 + 1).unwrap() - 1.0).abs() < 1e-7);
        // The same text as bytes at 1 bit each costs the same.
        let bytes = nats(&[0.5f32.ln(); 12], &[0, 1, 0, 1, 0, 1], 2).unwrap();
        assert!((bits_per_byte(&[bytes], 6).unwrap() - 1.0).abs() < 1e-7);
        assert!(bits_per_byte(&[sum], 0).is_err());
    }

    #[test]
    fn where_logits_are_many_a_probe_follows_its_batch_at_once() {
        for key in 0..100 {
            let visits = schedule(6, key, true);
            let mut last = None;
            for visit in &visits {
                match visit.probe {
                    None => last = Some(visit.batch),
                    Some(_) => assert_eq!(last, Some(visit.batch)),
                }
            }
        }
    }

    #[test]
    fn a_causality_change_alters_later_tokens_only() {
        for n in 0..50 {
            let change = Change::new(Some(Probe::Causality), 9, n, (4, 16), 300);
            assert!((0..16).all(|t| (change.token(3, 1, t) == 3) == (t <= change.keep)));
            assert!(change.keep < 15, "at least one token is altered");
        }
    }

    #[test]
    fn a_change_of_rows_moves_every_row_and_replaces_a_quarter() {
        for (n, rows) in (0..50).flat_map(|n| [2, 3, 4, 16].map(|rows| (n, rows))) {
            let change = Change::new(Some(Probe::Rows), 9, n, (rows, 16), 256);
            assert!((0..rows).all(|r| change.source_row(r) != r));
            let mut sources = change.source.clone();
            sources.sort_unstable();
            assert!(sources.into_iter().eq(0..rows), "a permutation");
            assert_eq!(change.replaced.iter().filter(|r| **r).count(), (rows / 4).max(1));
        }
    }

    #[test]
    fn a_constant_hides_no_change_of_a_prediction() {
        let (mut a, mut b) = (vec![1e5f32; 256], vec![1e5f32; 256]);
        assert!(!prediction_moved(&a, &b, ROWS_TOLERANCE));
        b[7] += 50.0;
        assert!(prediction_moved(&a, &b, ROWS_TOLERANCE));
        a[7] += 50.0;
        assert!(!prediction_moved(&a, &b, ROWS_TOLERANCE));
        // The same prediction, told with another constant.
        let c: Vec<f32> = b.iter().map(|z| z - 1e5).collect();
        assert!(!prediction_moved(&b, &c, ROWS_TOLERANCE));
    }
}
