//! `terrarium check`: everything short of running the candidate.

use super::args::Check;
use super::{Ended, exit, say, workshop};
use crate::evolve_block;
use serde_json::json;
use terrarium_sandbox::{BuildError, Outcome, Source};

/// Checks evolve blocks, compiles, and passes the module through the gate.
pub fn check(args: &Check) -> Ended {
    let original = workshop::load(&args.task, None)?;
    let loaded = workshop::load(&args.task, args.source.as_deref())?;
    let refused = |reason: String| Outcome::Rejected { reason };
    let edit = match evolve_block::parse(&loaded.source) {
        Err(e) => Err(refused(e.to_string())),
        Ok(_) if args.source.is_none() => Ok(()),
        Ok(_) => {
            evolve_block::check_edit(&original.source, &loaded.source).map_err(|e| refused(e.to_string()))
        }
    };
    let sandbox = workshop::sandbox(args.isolation, 1)?;
    let built =
        edit.and_then(|()| match sandbox.compile(Source::Rust(&loaded.source), loaded.task.header.world) {
            Ok(component) => Ok(Ok(component)),
            Err(BuildError::Candidate(outcome)) => Err(outcome),
            Err(BuildError::Host(error)) => Ok(Err(error)),
        });
    let (outcome, component) = match built {
        Ok(Ok(component)) => (None, Some(component)),
        Ok(Err(error)) => return Err(error.into()),
        Err(outcome) => (Some(outcome), None),
    };
    if args.json {
        say(json!({
            "schema": "terrarium-check/1",
            "task": loaded.task.header.name,
            "ok": outcome.is_none(),
            "outcome": outcome,
            "wasm_bytes": component.as_ref().map(|c| c.wasm_bytes),
            "code_bytes": component.as_ref().map(|c| c.code_bytes),
        }));
    } else if let Some(c) = &component {
        say(format_args!("ok: {} bytes of wasm, {} bytes of machine code", c.wasm_bytes, c.code_bytes));
    } else if let Some(outcome) = &outcome {
        say(outcome);
        if let Outcome::CompileError { diagnostics } = outcome {
            for diagnostic in diagnostics.iter().take(8) {
                eprintln!("{}", diagnostic.rendered.trim_end());
            }
        }
        eprintln!("hint: {}", outcome.hint());
    }
    Ok(if outcome.is_none() { exit::OK } else { exit::CANDIDATE_FAILED })
}
