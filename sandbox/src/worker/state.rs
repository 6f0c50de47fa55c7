//! What the host keeps about one running evaluation, and the small interfaces:
//! `data`, `knobs`, `report`, `budget`.

use super::host::HostUse;
use super::link::SharedLink;
use super::native_peer::{NativePeer, Request};
use super::shards::{Mapped, Tokens, below, stream};
use super::{Attached, Reply};
use crate::evaluation::{MAX_KNOBS, MAX_NAME, MAX_OPTIONS};
use crate::{Evaluation, Job, KnobRange, KnobScale, KnobValue, Metric, Outcome, Phase, text};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terrarium_kernels as kernels;

/// Bindings of the host, made from the WIT package.
#[allow(missing_docs, clippy::all)]
pub(super) mod trainer {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "metered-trainer",
        imports: { default: trappable },
    });
}
#[allow(missing_docs, clippy::all)]
pub(super) mod function {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "metered-function",
        imports: { default: trappable },
        with: {
            "terrarium:guest/knobs": super::trainer::terrarium::guest::knobs,
            "terrarium:guest/report": super::trainer::terrarium::guest::report,
        },
    });
}

/// The world `function` as a component implements it that nothing was added to.
#[allow(missing_docs, clippy::all)]
pub(super) mod plain {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "function",
        imports: { default: trappable },
        with: {
            "terrarium:guest/knobs": super::trainer::terrarium::guest::knobs,
            "terrarium:guest/report": super::trainer::terrarium::guest::report,
            "terrarium:guest/host": super::function::terrarium::guest::host,
        },
    });
}

pub(super) use trainer::terrarium::guest::compute as wit;
use trainer::terrarium::guest::{budget, data, knobs, report};

/// A validated graph, with what a replay is booked under.
pub(super) struct Recorded {
    pub graph: kernels::Graph,
    pub profile: Vec<kernels::ProfileLine>,
    /// Its operations and the nodes of its row kernels.
    pub size: u64,
}

/// The state behind every host function.
pub(super) struct State {
    pub device: kernels::Device,
    pub graphs: BTreeMap<u64, Arc<Recorded>>,
    pub next_graph: u64,
    /// Sizes of all graphs together.
    pub recorded: u64,
    pub evaluation: Evaluation,
    /// What the caller takes part in, and the way to it.
    pub attached: Attached,
    pub link: SharedLink,
    pub host_use: HostUse,
    /// What the embedder's functions may cost, all calls so far included.
    pub fuel_limit: u64,
    pub shards: Option<Arc<Mapped>>,
    pub phase: Phase,
    /// Device fuel charged while training and while predicting.
    pub train_fuel: u64,
    pub forward_fuel: u64,
    /// Device fuel and operations by name.
    pub profile: BTreeMap<&'static str, u64>,
    pub device_ops: u64,
    pub transfer_bytes: u64,
    pub host_calls: u64,
    pub kernel_time: Duration,
    pub train_started: Option<Instant>,
    pub batches: u64,
    /// Drives each step once more, for a benchmark.
    pub native_peer: Option<NativePeer>,
    pub knobs: Vec<(String, KnobRange)>,
    pub metrics: Vec<Metric>,
    pub log: String,
    /// Set by a host function that ends the evaluation.
    pub verdict: Option<Outcome>,
    /// The training budget was asked for more than it holds.
    pub budget_refused: bool,
    pub memory_refused: Option<u64>,
    pub table_refused: Option<u64>,
    pub peak_memory: u64,
    /// All memories of all instances together.
    memory: u64,
    /// Where the engine counts: what earlier calls used, and what the store
    /// was given for this one.
    pub fuel_given: (u64, u64),
    /// Where WASI is on.
    pub wasi: Option<Box<super::wasi::Context>>,
}

impl State {
    pub fn new(
        device: kernels::Device,
        evaluation: Evaluation,
        shards: Option<Arc<Mapped>>,
        attached: Attached,
        link: SharedLink,
    ) -> Self {
        let native_peer = attached.native_peer.then(NativePeer::default);
        Self {
            device,
            graphs: BTreeMap::new(),
            next_graph: 1,
            fuel_limit: evaluation.limits.fuel,
            recorded: 0,
            evaluation,
            attached,
            link,
            host_use: HostUse::default(),
            shards,
            phase: Phase::Instantiate,
            train_fuel: 0,
            forward_fuel: 0,
            profile: BTreeMap::new(),
            device_ops: 0,
            transfer_bytes: 0,
            host_calls: 0,
            kernel_time: Duration::ZERO,
            train_started: None,
            batches: 0,
            native_peer,
            knobs: Vec::new(),
            metrics: Vec::new(),
            log: String::new(),
            verdict: None,
            budget_refused: false,
            memory_refused: None,
            table_refused: None,
            peak_memory: 0,
            memory: 0,
            fuel_given: (0, 0),
            wasi: None,
        }
    }

    /// The evaluation that an instance which was made ahead is for.
    pub fn begin(&mut self, evaluation: Evaluation, attached: Attached) {
        self.fuel_limit = evaluation.limits.fuel;
        self.native_peer = attached.native_peer.then(NativePeer::default);
        (self.evaluation, self.attached) = (evaluation, attached);
    }

    /// Ends the evaluation with `outcome`, from inside a host function.
    pub fn end<T>(&mut self, outcome: Outcome) -> wasmtime::Result<T> {
        let message = outcome.to_string();
        self.verdict.get_or_insert(outcome);
        Err(wasmtime::Error::msg(message))
    }

    /// Counts a call into the host.
    pub fn count_call(&mut self) -> wasmtime::Result<()> {
        self.host_calls += 1;
        let limit = self.evaluation.limits.host_calls;
        if self.host_calls > limit {
            return self.end(Outcome::Quota { which: "host_calls".into(), limit });
        }
        Ok(())
    }

    /// Adds a line to the log, as far as its quota goes.
    pub fn keep(&mut self, message: &str) -> wasmtime::Result<()> {
        let room = usize::try_from(self.evaluation.limits.log_bytes).unwrap_or(usize::MAX);
        let left = room.saturating_sub(self.log.len() + 1);
        if left > 0 {
            let line = text::clean(message, left);
            self.log.push_str(&line);
            self.log.push('\n');
            if self.attached.logs {
                self.link.send(&Reply::Log(line)).map_err(wasmtime::Error::msg)?;
            }
        }
        Ok(())
    }

    pub fn in_training(&self) -> bool {
        self.phase == Phase::Train
    }

    pub fn held_out_in_play(&self) -> bool {
        self.phase == Phase::Forward
    }

    /// Share of the training budget used, 0 to 1.
    fn progress(&self) -> f64 {
        let limits = &self.evaluation.limits;
        let by_fuel = self.train_fuel as f64 / limits.device_fuel as f64;
        let by_time = match (limits.train_wall_ms, self.train_started) {
            (0, _) | (_, None) => 0.0,
            (ms, Some(start)) => start.elapsed().as_secs_f64() * 1e3 / ms as f64,
        };
        by_fuel.max(by_time).clamp(0.0, 1.0)
    }

    /// Whether the training budget by wall clock, if there is one, is used up.
    pub fn train_time_is_up(&self) -> bool {
        let ms = self.evaluation.limits.train_wall_ms;
        ms > 0 && self.train_started.is_some_and(|start| start.elapsed() >= Duration::from_millis(ms))
    }

    fn declare(&mut self, name: &str, range: KnobRange) -> wasmtime::Result<Option<KnobValue>> {
        self.count_call()?;
        let refuse = |reason: String| Outcome::HostDenied { call: "knobs".into(), reason };
        if name.is_empty() || name.len() > MAX_NAME || text::clean(name, MAX_NAME) != name {
            let shown = text::clean(name, MAX_NAME);
            return self.end(refuse(format!(
                "the knob name `{shown}` is empty, over {MAX_NAME} bytes or not plain text"
            )));
        }
        if self.held_out_in_play() && !self.knobs.iter().any(|(n, _)| n == name) {
            return self.end(refuse(format!("knob `{name}` is declared for the first time in `forward`")));
        }
        match self.knobs.iter().find(|(n, _)| n == name) {
            Some((_, declared)) if *declared == range => {}
            Some(_) => {
                return self.end(refuse(format!("knob `{name}` is declared twice with different ranges")));
            }
            None if self.knobs.len() == MAX_KNOBS => {
                return self.end(refuse(format!("more than {MAX_KNOBS} knobs")));
            }
            None => self.knobs.push((name.to_owned(), range)),
        }
        Ok(self.evaluation.knobs.get(name).cloned())
    }
}

impl From<knobs::Scale> for KnobScale {
    fn from(scale: knobs::Scale) -> Self {
        match scale {
            knobs::Scale::Linear => Self::Linear,
            knobs::Scale::Logarithmic => Self::Logarithmic,
        }
    }
}

impl knobs::Host for State {
    fn number(
        &mut self,
        name: String,
        default: f64,
        low: f64,
        high: f64,
        scale: knobs::Scale,
    ) -> wasmtime::Result<f64> {
        let positive = scale == knobs::Scale::Linear || low > 0.0;
        if !(low.is_finite() && high.is_finite() && low <= default && default <= high && positive) {
            return self.end(Outcome::HostDenied {
                call: "knobs.number".into(),
                reason: format!(
                    "knob `{}`: need finite low ≤ default ≤ high, and low > 0 on a logarithmic scale",
                    text::clean(&name, MAX_NAME)
                ),
            });
        }
        let given = self.declare(&name, KnobRange::Number { default, low, high, scale: scale.into() })?;
        Ok(match given {
            Some(KnobValue::Number(value)) if value.is_finite() => value.clamp(low, high),
            Some(KnobValue::Integer(value)) => (value as f64).clamp(low, high),
            _ => default,
        })
    }

    fn integer(
        &mut self,
        name: String,
        default: i64,
        low: i64,
        high: i64,
        scale: knobs::Scale,
    ) -> wasmtime::Result<i64> {
        let positive = scale == knobs::Scale::Linear || low > 0;
        if !(low <= default && default <= high && positive) {
            return self.end(Outcome::HostDenied {
                call: "knobs.integer".into(),
                reason: format!(
                    "knob `{}`: need low ≤ default ≤ high, and low > 0 on a logarithmic scale",
                    text::clean(&name, MAX_NAME)
                ),
            });
        }
        let given = self.declare(&name, KnobRange::Integer { default, low, high, scale: scale.into() })?;
        Ok(match given {
            Some(KnobValue::Integer(value)) => value.clamp(low, high),
            _ => default,
        })
    }

    fn choice(&mut self, name: String, default: u32, options: Vec<String>) -> wasmtime::Result<u32> {
        let count = u32::try_from(options.len()).unwrap_or(u32::MAX);
        if count == 0
            || count as usize > MAX_OPTIONS
            || default >= count
            || options.iter().any(|o| o.len() > MAX_NAME)
        {
            return self.end(Outcome::HostDenied {
                call: "knobs.choice".into(),
                reason: format!(
                    "knob `{}`: need 1 to {MAX_OPTIONS} options of at most {MAX_NAME} bytes, and a default among them",
                    text::clean(&name, MAX_NAME)
                ),
            });
        }
        let options = options.iter().map(|o| text::clean(o, MAX_NAME)).collect();
        let given = self.declare(&name, KnobRange::Choice { default, options })?;
        Ok(match given {
            Some(KnobValue::Choice(value)) if value < count => value,
            _ => default,
        })
    }
}

impl report::Host for State {
    fn log(&mut self, message: String) -> wasmtime::Result<()> {
        self.count_call()?;
        if self.held_out_in_play() {
            return Ok(()); // Nothing of the held-out data may reach a proposer.
        }
        self.keep(&message)
    }

    fn metric(&mut self, name: String, step: u64, value: f64) -> wasmtime::Result<()> {
        self.count_call()?;
        let full = self.metrics.len() as u64 >= self.evaluation.limits.metrics;
        if !full && !self.held_out_in_play() {
            self.metrics.push(Metric { name: text::clean(&name, MAX_NAME), step, value });
        }
        Ok(())
    }
}

impl budget::Host for State {
    fn get(&mut self) -> wasmtime::Result<budget::State> {
        self.count_call()?;
        let total = self.evaluation.limits.device_fuel;
        Ok(budget::State {
            device_fuel_total: total,
            device_fuel_left: if self.train_time_is_up() { 0 } else { total.saturating_sub(self.train_fuel) },
            progress: self.progress(),
        })
    }
}

impl data::Host for State {
    fn describe(&mut self) -> wasmtime::Result<data::Info> {
        self.count_call()?;
        let context = match &self.evaluation.job {
            Job::Train { held_out, .. } => held_out.context,
            Job::Call { .. } | Job::Calls { .. } => 0,
        };
        let train_tokens = self.shards.as_ref().map_or(0, |s| s.train.len() as u64);
        let vocabulary = self.shards.as_ref().map_or(256, |s| s.vocabulary() as u32);
        Ok(data::Info { vocabulary, context, train_tokens })
    }

    fn next_batch(&mut self, tokens: u64, targets: u64) -> wasmtime::Result<Result<(), wit::Error>> {
        self.count_call()?;
        if self.held_out_in_play() {
            return Ok(Err(super::compute::denied("next-batch")));
        }
        let Some(shards) = self.shards.clone() else {
            return Ok(Err(super::compute::denied("next-batch")));
        };
        let first = self.batches;
        let drawn = self.draw(&shards.train, tokens, targets);
        if drawn.is_ok() {
            self.note(|| Request::Batch { tokens, targets, first });
        }
        Ok(drawn)
    }
}

impl State {
    fn draw(&mut self, train: &Tokens, tokens: u64, targets: u64) -> Result<(), wit::Error> {
        let (rows, length) = self.batch_shape(train, tokens, targets)?;
        // Moving a token costs as much as moving its eight bytes on the device.
        self.charge("NextBatch", 8 * (rows * length) as u64, 1)?;
        let first = self.batches;
        self.batches += rows as u64;
        self.fill_batch(train, tokens, targets, first)
    }

    /// [B, T] of both tensors of a batch.
    fn batch_shape(&self, train: &Tokens, tokens: u64, targets: u64) -> Result<(usize, usize), wit::Error> {
        let (tokens, targets) = (kernels::TensorId::from_bits(tokens), kernels::TensorId::from_bits(targets));
        let shape = self.device.shape(tokens).map_err(super::compute::error)?.to_vec();
        let &[rows, length] = shape.as_slice() else {
            return Err(super::compute::invalid("tokens must have the shape [B, T]"));
        };
        if self.device.shape(targets).map_err(super::compute::error)? != [rows, length] {
            return Err(super::compute::invalid("targets must have the shape of tokens"));
        }
        let (rows, length) = (rows as usize, length as usize);
        if length >= train.len() {
            return Err(super::compute::invalid("T is longer than the train split"));
        }
        Ok((rows, length))
    }

    /// Uploads the windows `first`, `first + 1`, … of the evaluation's stream.
    pub fn fill_batch(
        &mut self,
        train: &Tokens,
        tokens: u64,
        targets: u64,
        first: u64,
    ) -> Result<(), wit::Error> {
        let (rows, length) = self.batch_shape(train, tokens, targets)?;
        let (tokens, targets) = (kernels::TensorId::from_bits(tokens), kernels::TensorId::from_bits(targets));
        let mut batch = vec![0i32; 2 * rows * length];
        let (inputs, shifted) = batch.split_at_mut(rows * length);
        let mut window = Vec::with_capacity(length + 1);
        for row in 0..rows {
            let bits = stream(self.evaluation.seed, first + row as u64);
            let start = below(bits, (train.len() - length) as u64) as usize;
            window.clear();
            train.read(start, length + 1, &mut window).map_err(|e| super::compute::invalid(&e))?;
            let span = row * length..(row + 1) * length;
            inputs[span.clone()].copy_from_slice(&window[..length]);
            shifted[span].copy_from_slice(&window[1..]);
        }
        self.device.upload_i32(tokens, 0, inputs).map_err(super::compute::error)?;
        self.device.upload_i32(targets, 0, shifted).map_err(super::compute::error)
    }
}

impl wasmtime::ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let limit = self.evaluation.limits.memory_bytes;
        let together = self.memory.saturating_add(desired.saturating_sub(current) as u64);
        let allowed = together <= limit && maximum.is_none_or(|m| desired <= m);
        if allowed {
            self.memory = together;
            self.peak_memory = self.peak_memory.max(together);
        } else {
            self.memory_refused = Some(limit);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.evaluation.limits.table_elements;
        let allowed = desired as u64 <= limit && maximum.is_none_or(|m| desired <= m);
        if !allowed {
            self.table_refused = Some(limit);
        }
        Ok(allowed)
    }
}
