//! The template gpt-h100, trained step by step on request.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use terrarium_kernels::AccountLine;
use terrarium_tests::native::{NativeConfig, NativeSession};

use super::Result;

#[allow(dead_code)]
#[path = "../../../guest-templates/gpt-h100/candidate/candidate.rs"]
mod gpt_h100;

/// Longest that making the model and its graph may take, and a step.
const PATIENCE: Duration = Duration::from_secs(300);

/// The points of `train_loss`: step and value.
type Losses = Vec<(u64, f64)>;

/// A training on a thread of its own, which waits before each step.
pub struct Training {
    permits: Option<mpsc::Sender<()>>,
    times: mpsc::Receiver<f64>,
    /// Comes before the first step.
    account: mpsc::Receiver<Vec<AccountLine>>,
    accounted: Option<Vec<AccountLine>>,
    thread: Option<JoinHandle<std::result::Result<Losses, String>>>,
}

impl Training {
    /// `[rows, parts, time, vocabulary]` of the model, and further knobs as
    /// `name=value`.
    pub fn start(cuda: Option<u32>, numbers: [u32; 4], knobs: &[&str]) -> Result<Training> {
        let [rows, parts, context, vocabulary] = numbers;
        let mut set = BTreeMap::from([
            ("batch_rows".to_owned(), f64::from(rows)),
            ("batch_parts".to_owned(), f64::from(parts)),
        ]);
        for knob in knobs {
            let (name, value) = knob.split_once('=').ok_or("a knob is name=value")?;
            set.insert(name.to_owned(), value.parse()?);
        }
        let (permits, permitted) = mpsc::channel();
        let (tell, times) = mpsc::channel();
        let (tell_account, account) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let text = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let config = NativeConfig {
                threads: 0,
                cuda,
                max_bytes: super::CARD_BYTES,
                text,
                vocabulary,
                context,
                knobs: set,
                ..NativeConfig::default()
            };
            run(config, permitted, tell, tell_account).map_err(|error| error.to_string())
        });
        Ok(Training { permits: Some(permits), times, account, accounted: None, thread: Some(thread) })
    }

    /// Seconds of one step: a replay, and everything up to the next.
    pub fn step(&mut self) -> Result<f64> {
        let sent = self.permits.as_ref().is_some_and(|permits| permits.send(()).is_ok());
        match self.times.recv_timeout(PATIENCE) {
            Ok(seconds) if sent => Ok(seconds),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("no step within {} s", PATIENCE.as_secs()).into())
            }
            _ => Err(self.why_it_ended()?),
        }
    }

    fn why_it_ended(&mut self) -> Result<Box<dyn std::error::Error>> {
        Ok(match self.end()? {
            Ok(_) => "the training ended".into(),
            Err(why) => why.into(),
        })
    }

    /// Of one step, as JSON.
    pub fn account(&mut self) -> Result<Value> {
        if self.accounted.is_none() {
            self.accounted = match self.account.recv_timeout(PATIENCE) {
                Ok(lines) => Some(lines),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(format!("no graph within {} s", PATIENCE.as_secs()).into());
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.why_it_ended()?),
            };
        }
        let mut counts: BTreeMap<&AccountLine, u64> = BTreeMap::new();
        for line in self.accounted.iter().flatten() {
            *counts.entry(line).or_default() += 1;
        }
        let line = |(line, count): (&AccountLine, u64)| json!({ "operation": line.name, "count": count, "flops": line.flops, "bytes": line.bytes });
        Ok(counts.into_iter().map(line).collect())
    }

    /// Ends the training; what it said of its loss.
    pub fn finish(mut self) -> Result<Losses> {
        Ok(self.end()??)
    }

    fn end(&mut self) -> Result<std::result::Result<Losses, String>> {
        self.permits = None;
        let thread = self.thread.take().ok_or("the training ended before")?;
        thread.join().map_err(|_| "the training panicked".into())
    }
}

impl Drop for Training {
    fn drop(&mut self) {
        // Its memory is free when this returns; how it ended was of no interest.
        let _ = self.end();
    }
}

fn run(
    config: NativeConfig,
    permitted: mpsc::Receiver<()>,
    tell: mpsc::Sender<f64>,
    tell_account: mpsc::Sender<Vec<AccountLine>>,
) -> Result<Losses> {
    let session = NativeSession::start(config)?;
    let mut trainer = gpt_h100::native_trainer(1)?;
    let mut since: Option<Instant> = None;
    session.gate(Box::new(move |record| {
        if since.is_none() {
            // Nobody need have asked.
            let _ = tell_account.send(record.account.clone());
        }
        let told = since.is_none_or(|since| tell.send(since.elapsed().as_secs_f64()).is_ok());
        let more = told && permitted.recv().is_ok();
        since = Some(Instant::now());
        more
    }));
    trainer.train()?;
    let metrics = session.record().metrics;
    Ok(metrics.iter().filter(|m| m.0 == "train_loss").map(|m| (m.1, m.2)).collect())
}
