//! How an evaluation ended: exactly one typed value, whatever the guest did.

use crate::text;
use serde::{Deserialize, Serialize};

/// Longest text in an outcome, in bytes.
const MAX_TEXT: usize = 4_000;

/// Where in its life an evaluation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Source to core module, in the jail.
    Compile,
    /// Core module to machine code.
    Codegen,
    /// Creating the instance.
    Instantiate,
    /// The guest's `init`.
    Init,
    /// The guest's `train`.
    Train,
    /// The guest's `forward`, on held-out data.
    Forward,
    /// The guest's `call`.
    Call,
}

/// One message of the compiler about a candidate, cleaned of control
/// characters and bounded in length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// `error`, `warning` …
    pub level: String,
    /// The compiler's code, such as `E0308`.
    pub code: Option<String>,
    /// One line.
    pub message: String,
    /// 1-based line in the candidate's source, 0 if none.
    pub line: u32,
    /// 1-based column, 0 if none.
    pub column: u32,
    /// The message as the compiler would print it, with the source excerpt.
    pub rendered: String,
}

/// How an evaluation ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// It ran to the end and was scored.
    Finished,
    /// An export returned an error.
    GuestError {
        /// In which phase.
        phase: Phase,
        /// What it said (hostile text, bounded).
        message: String,
    },
    /// Guest instructions were used up.
    OutOfFuel {
        /// In which phase.
        phase: Phase,
    },
    /// The guest gave up because its device-fuel budget was used up.
    DeviceFuel {
        /// In which phase.
        phase: Phase,
    },
    /// The wall-clock deadline passed; the process was killed.
    Deadline {
        /// In which phase.
        phase: Phase,
    },
    /// Linear memory could not grow past its limit, and the guest failed.
    MemoryLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// A table could not grow past its limit, and the guest failed.
    TableLimit {
        /// The limit in elements.
        limit: u64,
    },
    /// The call stack was used up.
    StackOverflow {
        /// In which phase.
        phase: Phase,
    },
    /// The guest trapped (a panic, a bad memory access …).
    Trap {
        /// In which phase.
        phase: Phase,
        /// The kind of trap.
        trap: String,
        /// Function names and offsets, innermost first (hostile text, bounded).
        backtrace: Vec<String>,
    },
    /// A call was made that is not allowed at that point.
    HostDenied {
        /// The function.
        call: String,
        /// Why.
        reason: String,
    },
    /// A counted quota was used up.
    Quota {
        /// Which limit, by its name in [`crate::Limits`].
        which: String,
        /// The limit.
        limit: u64,
    },
    /// The result was larger than allowed.
    OutputTooLarge {
        /// Its size in bytes, where known.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Logits or another scored value were not finite.
    NotFinite {
        /// What was not finite.
        what: String,
    },
    /// An honesty probe failed: the predictions depended on what they must
    /// not depend on.
    ProbeFailed {
        /// `causality`, `idempotence` or `rows`.
        probe: String,
        /// What was seen.
        detail: String,
    },
    /// The evaluator refused the output.
    InvalidOutput {
        /// Why.
        reason: String,
    },
    /// The device failed.
    DeviceLost {
        /// What the device said.
        reason: String,
    },
    /// The worker process died of something that was not our doing.
    WorkerDied {
        /// The signal, or 0 with an exit.
        signal: i32,
        /// In which phase.
        phase: Phase,
    },
    /// The caller cancelled it.
    Cancelled {
        /// In which phase.
        phase: Phase,
    },
    /// The module gate or the evolve-block check refused it before it ran.
    Rejected {
        /// Why.
        reason: String,
    },
    /// It did not compile.
    CompileError {
        /// What the compiler said, first errors first, bounded.
        diagnostics: Vec<Diagnostic>,
    },
}

impl Outcome {
    /// The stable code, as in JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::GuestError { .. } => "guest-error",
            Self::OutOfFuel { .. } => "out-of-fuel",
            Self::DeviceFuel { .. } => "device-fuel",
            Self::Deadline { .. } => "deadline",
            Self::MemoryLimit { .. } => "memory-limit",
            Self::TableLimit { .. } => "table-limit",
            Self::StackOverflow { .. } => "stack-overflow",
            Self::Trap { .. } => "trap",
            Self::HostDenied { .. } => "host-denied",
            Self::Quota { .. } => "quota",
            Self::OutputTooLarge { .. } => "output-too-large",
            Self::NotFinite { .. } => "not-finite",
            Self::ProbeFailed { .. } => "probe-failed",
            Self::InvalidOutput { .. } => "invalid-output",
            Self::DeviceLost { .. } => "device-lost",
            Self::WorkerDied { .. } => "worker-died",
            Self::Cancelled { .. } => "cancelled",
            Self::Rejected { .. } => "rejected",
            Self::CompileError { .. } => "compile-error",
        }
    }

    /// Whether the candidate has a score.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Finished)
    }

    /// Whether a second try may end differently through no merit of the
    /// candidate: the engine retries such an evaluation.
    pub fn is_infrastructure(&self) -> bool {
        matches!(self, Self::WorkerDied { signal: 9 | 15, .. } | Self::DeviceLost { .. })
    }

    /// Cleans and bounds every text in it: it came from a worker, which a
    /// candidate may have taken over.
    pub(crate) fn distrust(&mut self) {
        let clean = |text: &mut String| {
            if text.len() > MAX_TEXT || text::clean(text, MAX_TEXT) != *text {
                *text = text::clean(text, MAX_TEXT);
            }
        };
        match self {
            Self::GuestError { message: text, .. }
            | Self::Quota { which: text, .. }
            | Self::NotFinite { what: text }
            | Self::InvalidOutput { reason: text }
            | Self::DeviceLost { reason: text }
            | Self::Rejected { reason: text } => clean(text),
            Self::HostDenied { call: one, reason: two } | Self::ProbeFailed { probe: one, detail: two } => {
                clean(one);
                clean(two);
            }
            Self::Trap { trap, backtrace, .. } => {
                clean(trap);
                backtrace.truncate(16);
                backtrace.iter_mut().for_each(clean);
            }
            // No worker compiles anything.
            Self::CompileError { diagnostics } => diagnostics.clear(),
            Self::Finished
            | Self::OutOfFuel { .. }
            | Self::DeviceFuel { .. }
            | Self::Deadline { .. }
            | Self::MemoryLimit { .. }
            | Self::TableLimit { .. }
            | Self::StackOverflow { .. }
            | Self::OutputTooLarge { .. }
            | Self::WorkerDied { .. }
            | Self::Cancelled { .. } => {}
        }
    }

    /// One thing to try, for the proposer and for people.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Finished => "",
            Self::GuestError { .. } => "the candidate returned this error itself",
            Self::OutOfFuel { .. } => {
                "do less work in the guest: move loops into device operations or bound them"
            }
            Self::DeviceFuel { .. } => "stop training when budget.device-fuel-left no longer covers a step",
            Self::Deadline { .. } => "the whole evaluation took too long: look for an endless loop",
            Self::MemoryLimit { .. } => "keep less in linear memory; large arrays belong in tensors",
            Self::TableLimit { .. } => "use fewer function pointers",
            Self::StackOverflow { .. } => "recursion is too deep: use a loop or an explicit stack",
            Self::Trap { .. } => "a panic or an invalid access: check indices, arithmetic and unwraps",
            Self::HostDenied { .. } => {
                "this call is not allowed here; `forward` may only run device operations"
            }
            Self::Quota { .. } => "free what is no longer used, and reuse tensors and graphs",
            Self::OutputTooLarge { .. } => "return only what the task asks for",
            Self::NotFinite { .. } => "training diverged: lower the learning rate or clip",
            Self::ProbeFailed { .. } => "a prediction may depend only on earlier tokens of its own row",
            Self::InvalidOutput { .. } => "return exactly what TASK.md describes",
            Self::DeviceLost { .. } => "the device was restarted; the evaluation can be repeated",
            Self::WorkerDied { .. } => "the process was killed from outside, or ran out of memory",
            Self::Cancelled { .. } => "it was stopped by whoever started it; it can be repeated",
            Self::Rejected { .. } => "edit only inside the evolve blocks, and keep the module small",
            Self::CompileError { .. } => {
                "fix the first error; only the SDK and the standard library are available"
            }
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())?;
        match self {
            Self::GuestError { message, .. } => write!(f, ": {message}"),
            Self::Deadline { phase } | Self::OutOfFuel { phase } | Self::Cancelled { phase } => {
                write!(f, " in {phase:?}")
            }
            Self::Trap { trap, phase, .. } => write!(f, " in {phase:?}: {trap}"),
            Self::HostDenied { call, reason } => write!(f, ": {call}: {reason}"),
            Self::Quota { which, limit } => write!(f, ": {which} = {limit}"),
            Self::NotFinite { what } => write!(f, ": {what}"),
            Self::ProbeFailed { probe, detail } => write!(f, ": {probe}: {detail}"),
            Self::InvalidOutput { reason } | Self::Rejected { reason } | Self::DeviceLost { reason } => {
                write!(f, ": {reason}")
            }
            Self::WorkerDied { signal, phase } => write!(f, ": signal {signal} in {phase:?}"),
            Self::OutputTooLarge { bytes, limit } => write!(f, ": {bytes} bytes of {limit}"),
            Self::CompileError { diagnostics } => match diagnostics.first() {
                Some(d) => write!(f, ": line {}: {}", d.line, d.message),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_worker_are_cleaned_and_bounded() {
        let hostile = "\x1b[2J".repeat(5_000);
        let trap =
            Outcome::Trap { phase: Phase::Call, trap: hostile.clone(), backtrace: vec![hostile.clone(); 99] };
        let denied = Outcome::HostDenied { call: hostile.clone(), reason: hostile };
        for mut outcome in [trap, denied] {
            outcome.distrust();
            let text = serde_json::to_string(&outcome).unwrap();
            assert!(text.len() < 18 * 5_000 && !text.contains("\\u001b"), "{} bytes", text.len());
        }
        let mut honest = Outcome::GuestError { phase: Phase::Call, message: "no\troom".into() };
        let before = honest.clone();
        honest.distrust();
        assert_eq!(honest, before);
    }
}
