//! From an error of wasmtime to an outcome.

use crate::codegen::Artifact;
use crate::{Outcome, Phase, text};
use wasmtime::{Trap, WasmBacktrace};

/// What the host already knows about the evaluation when the guest stopped.
pub(super) struct Known {
    /// A host function ended the evaluation with this.
    pub verdict: Option<Outcome>,
    /// A growth of memory or table was refused, with the limit.
    pub memory_refused: Option<u64>,
    pub table_refused: Option<u64>,
}

/// The outcome of a call that ended with `error`.
pub(super) fn of_error(error: &wasmtime::Error, phase: Phase, known: Known, artifact: &Artifact) -> Outcome {
    if let Some(verdict) = known.verdict {
        return verdict;
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::UnreachableCodeReached)
        && let Some(offset) = backtrace
            .and_then(|b| b.frames().first())
            .and_then(|frame| frame.module_offset())
            .and_then(|offset| u32::try_from(offset).ok())
    {
        if artifact.fuel_traps.binary_search(&offset).is_ok() {
            return Outcome::OutOfFuel { phase };
        }
        if artifact.depth_traps.binary_search(&offset).is_ok() {
            return Outcome::StackOverflow { phase };
        }
    }
    if trap == Some(&Trap::OutOfFuel) {
        return Outcome::OutOfFuel { phase };
    }
    if trap == Some(&Trap::StackOverflow) {
        return Outcome::StackOverflow { phase };
    }
    // A guest whose allocation was refused ends in a panic or a trap of its
    // own; the refusal is the cause.
    if let Some(limit) = known.memory_refused {
        return Outcome::MemoryLimit { limit };
    }
    if let Some(limit) = known.table_refused {
        return Outcome::TableLimit { limit };
    }
    let what = match trap {
        Some(trap) => trap.to_string(),
        None => format!("{:#}", error.root_cause()),
    };
    let frames = backtrace.map(WasmBacktrace::frames).unwrap_or_default();
    Outcome::Trap {
        phase,
        trap: text::clean(&what, 500),
        backtrace: frames
            .iter()
            .take(16)
            .map(|frame| {
                let name = frame
                    .func_name()
                    .map_or_else(|| format!("function {}", frame.func_index()), str::to_owned);
                text::clean(&name, 200)
            })
            .collect(),
    }
}
