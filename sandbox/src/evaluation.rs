//! What is asked of the sandbox, and what it answers.

use crate::{Limits, Outcome, text};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The WIT world that a candidate is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Trains a model: `init`, `train`, `forward`.
    Trainer,
    /// Bytes in, bytes out: `call`.
    Function,
    /// A program with a `main`, bytes in and out through its standard streams.
    /// It imports WASI by its nature: choosing this world turns WASI on.
    Command,
}

impl World {
    /// Its name in the WIT package.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trainer => "trainer",
            Self::Function => "function",
            Self::Command => "command",
        }
    }
}

/// The value of a knob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnobValue {
    /// Of a `number` knob.
    Number(f64),
    /// Of an `integer` knob.
    Integer(i64),
    /// Of a `choice` knob: the option's number.
    Choice(u32),
}

/// How a numeric knob is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnobScale {
    /// Uniformly.
    Linear,
    /// Uniformly in the logarithm.
    Logarithmic,
}

/// A knob as the candidate declared it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum KnobRange {
    /// A real number in `low..=high`.
    Number {
        /// Value when none is given.
        default: f64,
        /// Smallest value.
        low: f64,
        /// Largest value.
        high: f64,
        /// How it is searched.
        scale: KnobScale,
    },
    /// A whole number in `low..=high`.
    Integer {
        /// Value when none is given.
        default: i64,
        /// Smallest value.
        low: i64,
        /// Largest value.
        high: i64,
        /// How it is searched.
        scale: KnobScale,
    },
    /// One of several options.
    Choice {
        /// Option when none is given.
        default: u32,
        /// Names of the options (hostile text, bounded).
        options: Vec<String>,
    },
}

/// At most this many knobs, each with a name of at most so many bytes and, of
/// a choice, at most so many options.
pub(crate) const MAX_KNOBS: usize = 128;
pub(crate) const MAX_NAME: usize = 64;
pub(crate) const MAX_OPTIONS: usize = 64;

/// Knob values by name. Missing ones take their defaults.
pub type Knobs = BTreeMap<String, KnobValue>;

/// The token shards of a language-model task. They are mapped into the worker
/// before it is locked down.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shards {
    /// What the candidate trains on.
    pub train: PathBuf,
    /// What its predictions are scored on, which it never sees but as the
    /// input of `forward`.
    pub held_out: PathBuf,
    /// `None`: tokens are the bytes of the text. Else the file with the number
    /// of bytes that each token stands for, one little-endian u32 per token of
    /// the vocabulary; the shards hold little-endian tokens of
    /// [`token_width`] bytes.
    pub token_bytes: Option<PathBuf>,
}

/// Bytes that a token takes in a shard, in a vocabulary of this size that is
/// not the plain bytes: 2 up to 65,536 tokens, else 4.
pub fn token_width(vocabulary: usize) -> usize {
    if vocabulary <= 1 << 16 { 2 } else { 4 }
}

/// How a trained model is scored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldOut {
    /// Tokens per window.
    pub context: u32,
    /// Windows per `forward` call.
    pub rows: u32,
    /// Windows scored, spread evenly over the held-out shard.
    pub windows: u32,
}

/// What the candidate is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Job {
    /// Train on `shards.train`, then be scored on `shards.held_out`.
    Train {
        /// Data.
        shards: Shards,
        /// Scoring.
        held_out: HeldOut,
    },
    /// One `call`.
    Call {
        /// Its input.
        #[serde(with = "serde_bytes")]
        input: Vec<u8>,
    },
    /// Several `call`s of one instance, which gets each input only after it
    /// answered the one before. Fuel and output are limited for all together.
    Calls {
        /// Their inputs, in order.
        inputs: Vec<Vec<u8>>,
    },
}

/// One evaluation: a candidate's component is run once in a fresh store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Seeds `init` and the order of batches.
    pub seed: u64,
    /// Decides where the honesty probes go. It must not be known to the
    /// candidate; it never changes a score, only what is caught.
    pub probe_key: u64,
    /// Knob values.
    pub knobs: Knobs,
    /// Work.
    pub job: Job,
    /// Hard limits.
    pub limits: Limits,
}

impl Evaluation {
    /// One `call` with this input: seed 0, default knobs, default limits.
    pub fn call(input: impl Into<Vec<u8>>) -> Self {
        Self {
            seed: 0,
            probe_key: 0,
            knobs: Knobs::new(),
            job: Job::Call { input: input.into() },
            limits: Limits::default(),
        }
    }

    /// The same under other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same with other knob values.
    #[must_use]
    pub fn with_knobs(self, knobs: Knobs) -> Self {
        Self { knobs, ..self }
    }

    /// Where it begins, once there is an instance.
    pub(crate) fn first_phase(&self) -> crate::Phase {
        match self.job {
            Job::Train { .. } => crate::Phase::Init,
            Job::Call { .. } | Job::Calls { .. } => crate::Phase::Call,
        }
    }
}

/// What a trained model scored on held-out windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScore {
    /// Sum of the negative log-likelihoods in nats, per window, in order.
    pub window_nats: Vec<f64>,
    /// Bytes of text that the predicted tokens stand for, all windows together.
    pub bytes: u64,
    /// Σ nats / (ln 2 · bytes).
    pub bits_per_byte: f64,
}

/// What an evaluation produced, when its outcome is `Finished`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Product {
    /// Of [`Job::Train`].
    HeldOut(HeldOutScore),
    /// Of [`Job::Call`]: the bytes that `call` returned, not yet scored.
    Output(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Of [`Job::Calls`]: what each `call` returned, in order.
    Outputs(Vec<Vec<u8>>),
}

/// One `report.metric` of the candidate (its own claim; never a score).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Name (hostile text, bounded).
    pub name: String,
    /// Step.
    pub step: u64,
    /// Value; may be non-finite.
    pub value: f64,
}

/// Deterministic use of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Guest instructions, where the guest could still be asked (after a trap
    /// other than exhaustion it cannot).
    pub fuel: Option<u64>,
    /// Device fuel of training.
    pub device_fuel: u64,
    /// Device fuel of the held-out predictions.
    pub forward_device_fuel: u64,
    /// Device operations run.
    pub device_ops: u64,
    /// Device fuel by operation name, largest first.
    pub device_profile: Vec<(String, u64)>,
    /// Peak of the guest's linear memory.
    pub peak_memory_bytes: u64,
    /// Peak of device memory.
    pub peak_device_bytes: u64,
    /// Calls into the host.
    pub host_calls: u64,
}

/// Where wall-clock time went, in microseconds. Not deterministic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Creating store and instance; by a worker that waited, before it was
    /// asked.
    pub instantiate_us: u64,
    /// `init`.
    pub init_us: u64,
    /// `train`, or `call`.
    pub train_us: u64,
    /// Held-out scoring, `forward` calls included.
    pub score_us: u64,
    /// Of all these, time inside device kernels.
    pub kernel_us: u64,
    /// Of `train`, time inside device kernels.
    pub train_kernel_us: u64,
    /// Request to answer, as the caller saw it.
    pub total_us: u64,
    /// The steps of `train` beside the same steps from Rust, where that was
    /// asked for; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTime>,
}

/// One training step, driven by the guest and then by the worker itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// From the end of one replay to the end of the guest's next, in
    /// nanoseconds, without the native step between.
    pub guest_ns: u64,
    /// Of it, inside the replay's kernels.
    pub guest_kernel_ns: u64,
    /// The same requests made from Rust, in nanoseconds.
    pub native_ns: u64,
    /// Of it, inside the same kernels.
    pub native_kernel_ns: u64,
}

/// The answer to an [`Evaluation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What it produced; present exactly when the outcome is `Finished`.
    pub product: Option<Product>,
    /// Knobs that the candidate declared, in order of first declaration.
    pub knobs: Vec<(String, KnobRange)>,
    /// The candidate's metrics.
    pub metrics: Vec<Metric>,
    /// The candidate's log, bounded and cleaned.
    pub log: String,
    /// Deterministic use of resources.
    pub usage: Usage,
    /// Wall-clock time.
    pub timing: Timing,
}

impl Report {
    /// Bounds and cleans what a worker says, as an honest one has done before:
    /// a candidate may have taken it over.
    pub(crate) fn distrust(&mut self, limits: &Limits) {
        let most = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        let tidy = |text: &mut String, bytes: usize| {
            let clean = text::clean(text, bytes);
            if clean != *text {
                *text = clean;
            }
        };
        self.outcome.distrust();
        let bytes = match &self.product {
            Some(Product::Output(output)) => output.len() as u64,
            Some(Product::Outputs(outputs)) => outputs.iter().map(|output| output.len() as u64).sum(),
            Some(Product::HeldOut(_)) | None => 0,
        };
        if bytes > limits.output_bytes {
            self.outcome = Outcome::OutputTooLarge { bytes, limit: limits.output_bytes };
        }
        if !self.outcome.is_finished() {
            self.product = None;
        }
        tidy(&mut self.log, most(limits.log_bytes));
        self.metrics.truncate(most(limits.metrics));
        for metric in &mut self.metrics {
            tidy(&mut metric.name, MAX_NAME);
        }
        self.knobs.truncate(MAX_KNOBS);
        for (name, range) in &mut self.knobs {
            tidy(name, MAX_NAME);
            if let KnobRange::Choice { options, .. } = range {
                options.truncate(MAX_OPTIONS);
                options.iter_mut().for_each(|option| tidy(option, MAX_NAME));
            }
        }
        self.timing.steps.truncate(crate::worker::MAX_STEPS);
        self.usage.device_profile.truncate(MAX_KNOBS);
        self.usage.device_profile.iter_mut().for_each(|(name, _)| tidy(name, MAX_NAME));
    }

    /// Of an evaluation that ended so, with nothing else known.
    pub(crate) fn ended(outcome: Outcome) -> Self {
        Self {
            outcome,
            product: None,
            knobs: Vec::new(),
            metrics: Vec::new(),
            log: String::new(),
            usage: Usage::default(),
            timing: Timing::default(),
        }
    }
}
