//! `terrarium eval`: one candidate, one seed, one object.

use super::args::Eval;
use super::{Ended, exit, say, values, workshop};
use crate::evaluate::{BuildFailure, Evaluate, Evaluated, Sandboxed, Split};
use crate::ids::BlobId;
use crate::run::fresh_probe_secret;
use crate::task::Task;
use serde_json::{Value, json};
use std::time::Instant;
use terrarium_sandbox::{BuildError, Knobs, Outcome, Source};

/// Name and version of the object.
pub const SCHEMA: &str = "terrarium-eval/1";

/// Evaluates.
pub fn eval(args: &Eval) -> Ended {
    workshop::check_device(&args.common)?;
    let mut loaded = workshop::load(&args.task, args.source.as_deref())?;
    values::limits(&mut loaded.task.budget, &args.limits)?;
    loaded.task.check()?;
    let knobs = values::knobs(&args.knobs)?;
    let open = if args.wasm.is_some() { workshop::without_compiler } else { workshop::sandbox_on };
    let sandbox = open(args.common.isolation, 1, args.common.broker.as_deref())?;
    let corpus = workshop::data(&loaded.task, args.common.data.as_deref())?;
    let data = workshop::snapshot(corpus.as_ref())?;
    let evaluator = Sandboxed::new(&sandbox, &loaded.task, data.as_ref(), fresh_probe_secret()?)?;

    let start = Instant::now();
    let (built, content) = match &args.wasm {
        Some(path) => {
            let wasm = std::fs::read(path).map_err(|e| crate::EngineError::io("read", path, e))?;
            let built = sandbox.compile(Source::Wasm(&wasm), loaded.task.header.world).map_err(|e| match e {
                BuildError::Candidate(outcome) => BuildFailure::Candidate(outcome),
                BuildError::Host(e) => {
                    BuildFailure::Host(crate::evaluate::HostError { message: e.to_string(), hint: e.hint() })
                }
            });
            (built, BlobId::of(&wasm))
        }
        None => (evaluator.build(&loaded.source), BlobId::of(loaded.source.as_bytes())),
    };
    let split = if args.final_split { Split::Final } else { Split::Selection };
    let (result, build_us) = match built {
        Ok(component) => {
            let build_us = micros(start);
            let result =
                evaluator.evaluate(&component, &knobs, args.seed, split).map_err(crate::EngineError::from)?;
            (result, build_us)
        }
        Err(BuildFailure::Candidate(outcome)) => (Evaluated::failed(outcome), micros(start)),
        Err(BuildFailure::Host(error)) => return Err(crate::EngineError::from(error).into()),
    };
    let result = result.normalised();
    if result.outcome.is_finished() {
        values::check_declared(&knobs, &result.knobs)?;
    }
    let total_us = micros(start);
    if args.json {
        say(object(&loaded.task, &content, &knobs, args.seed, split, &result, (build_us, total_us)));
    } else {
        show(
            &loaded.task,
            args.seed,
            &result,
            corpus.as_ref().and_then(|c| match split {
                Split::Selection | Split::Rung(_) => c.xz_bits_per_byte.val,
                Split::Final => c.xz_bits_per_byte.final_split,
            }),
            total_us,
        );
    }
    Ok(if result.outcome.is_finished() { exit::OK } else { exit::CANDIDATE_FAILED })
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn object(
    task: &Task,
    content: &BlobId,
    knobs: &Knobs,
    seed: u64,
    split: Split,
    result: &Evaluated,
    (build_us, total_us): (u64, u64),
) -> Value {
    let mut outcome = serde_json::to_value(&result.outcome).unwrap_or_default();
    if let (Value::Object(fields), false) = (&mut outcome, result.outcome.is_finished()) {
        fields.insert("hint".into(), result.outcome.hint().into());
    }
    json!({
        "schema": SCHEMA,
        "task": task.header.name,
        "metric": task.header.metric,
        "candidate": { "content": content, "knobs": knobs },
        "seed": seed,
        "split": split,
        "outcome": outcome,
        "score": result.score,
        "metrics": result.metrics,
        "log": result.log,
        "declared_knobs": result.knobs.iter().map(|(name, range)| json!({"name": name, "range": range})).collect::<Vec<_>>(),
        "usage": result.usage,
        "timing": { "build_us": build_us, "total_us": total_us, "evaluation": result.timing },
    })
}

fn show(task: &Task, seed: u64, result: &Evaluated, xz: Option<f64>, total_us: u64) {
    match result.score {
        Some(score) => {
            say(format_args!(
                "{} = {score:.6}   (seed {seed}, {:.2} s)",
                task.header.metric.name,
                total_us as f64 / 1e6
            ));
            if let (true, Some(xz)) = (task.data.is_some(), xz) {
                say(format_args!("xz -9 on the same text: {xz:.3} bits per byte"));
            }
        }
        None => {
            say(format_args!("{}", result.outcome));
            if let Outcome::CompileError { diagnostics } = &result.outcome {
                for diagnostic in diagnostics.iter().take(8) {
                    eprintln!("{}", diagnostic.rendered.trim_end());
                }
            }
            eprintln!("hint: {}", result.outcome.hint());
        }
    }
    let usage = &result.usage;
    if let Some(fuel) = usage.fuel {
        eprintln!(
            "  guest fuel {fuel}, device fuel {} + {} (train + predict)",
            usage.device_fuel, usage.forward_device_fuel
        );
    }
    for line in result.log.lines().take(20) {
        eprintln!("  | {line}");
    }
}
