//! `terrarium bench tax`: what driving a training from inside the glass costs.
//!
//! The gpt template trains in a locked-down worker. After each of its steps
//! the worker makes the same requests of the device once more, from Rust
//! ([`RunOptions::native_peer`]): the same graph, batch and uploads. The two
//! take turns step by step, so the machine's other work meets both alike.
//!
//! The kernels of a replay are the same code on the same memory either way,
//! and on a shared machine their time varies by more than the tax. So the tax
//! is the difference outside of them, as a share of the native step; the
//! difference of whole steps stands beside it.

use super::args::Bench;
use super::bench::{Figure, SCHEMA, table};
use super::failure::Failure;
use super::{Ended, exit, say, workshop};
use crate::run::fresh_probe_secret;
use std::collections::BTreeMap;
use terrarium_sandbox::{
    BuildError, Component, Evaluation, HeldOut, Job, KnobValue, Knobs, Limits, Report, RunOptions, Sandbox,
    Shards, Source, StepTime, World,
};

/// One size of the template.
struct Size {
    /// Names of its figures: the tax, the two steps, their whole difference.
    names: [&'static str; 4],
    meaning: &'static str,
    knobs: Knobs,
    context: u32,
    /// How long a training lasts, both drivers together, in ms.
    wall_ms: u64,
}

fn sizes() -> [Size; 2] {
    let knob = |name: &str, value: i64| (name.to_owned(), KnobValue::Integer(value));
    let large = BTreeMap::from([
        knob("depth", 6),
        knob("head_dim_by_8", 8),
        knob("heads", 6),
        knob("mlp_expansion", 4),
        knob("batch_rows", 8),
        ("value_embeddings".to_owned(), KnobValue::Choice(0)),
    ]);
    [
        Size {
            names: ["tax", "guest_step", "native_step", "difference"],
            meaning: "default gpt",
            knobs: Knobs::new(),
            context: 128,
            wall_ms: 8_000,
        },
        Size {
            names: ["tax_large", "guest_step_large", "native_step_large", "difference_large"],
            meaning: "6 layers, C 384, 6 heads, T 256, B 8, V 256",
            knobs: large,
            context: 256,
            wall_ms: 30_000,
        },
    ]
}

/// Least steps of a training that says anything.
const LEAST_STEPS: usize = 5;

pub(super) fn bench(args: &Bench) -> Ended {
    if args.repeat == 0 || args.repeat > 1_000 {
        return Err(Failure::usage(format!("--repeat {} is out of range", args.repeat), "1 to 1000"));
    }
    let open = if args.wasm.is_some() { workshop::without_compiler } else { workshop::sandbox_on };
    let sandbox = open(args.isolation, 1, args.broker.as_deref())?;
    let identity = sandbox.identity()?;
    let loaded = workshop::load("gpt", None)?;
    let corpus = workshop::data(&loaded.task, args.data.as_deref())?;
    let Some(data) = workshop::snapshot(corpus.as_ref())? else {
        return Err(Failure::new("the gpt template trains on no data", "run `terrarium setup` again"));
    };
    let shards = Shards {
        train: data.train.clone(),
        held_out: data.selection.clone(),
        token_bytes: data.token_bytes.clone(),
    };
    let module = match &args.wasm {
        Some(path) => Some(std::fs::read(path).map_err(|e| crate::EngineError::io("read", path, e))?),
        None => None,
    };
    let source = module.as_deref().map_or(Source::Rust(&loaded.source), Source::Wasm);
    let component = match sandbox.compile(source, World::Trainer) {
        Ok(component) => component,
        Err(BuildError::Host(e)) => return Err(e.into()),
        Err(BuildError::Candidate(outcome)) => {
            return Err(Failure::new(format!("the template gpt: {outcome}"), "run `terrarium setup` again"));
        }
    };
    let sizes = sizes();
    let mut series: Vec<[Vec<f64>; 4]> = sizes.iter().map(|_| Default::default()).collect();
    for repetition in 0..args.repeat as u64 {
        for (size, series) in sizes.iter().zip(&mut series) {
            let steps = train(&sandbox, &component, size, &shards, repetition)?;
            for (values, value) in series.iter_mut().zip(measure(&steps)) {
                values.push(value);
            }
        }
    }
    let mut figures = Vec::new();
    for (size, [tax, guest, native, all]) in sizes.iter().zip(series) {
        let native = Figure::new(size.names[2], "ms", "the same step from Rust", native);
        let peer = native.median;
        figures.push(Figure::new(size.names[0], "fraction", size.meaning, tax));
        figures.push(
            Figure::new(size.names[1], "ms", "a step driven by the guest", guest)
                .against(size.names[2], peer),
        );
        figures.push(native);
        figures.push(Figure::new(
            size.names[3],
            "fraction",
            "guest by native step - 1, kernels' noise included",
            all,
        ));
    }
    if args.json {
        say(
            serde_json::json!({ "schema": SCHEMA, "bench": args.name, "machine": identity, "figures": figures }),
        );
    } else {
        say(format_args!("{identity}"));
        say(table(&figures));
    }
    Ok(exit::OK)
}

/// One training; its steps, both ways.
fn train(
    sandbox: &Sandbox,
    component: &Component,
    size: &Size,
    shards: &Shards,
    seed: u64,
) -> Result<Vec<StepTime>, Failure> {
    let evaluation = Evaluation {
        seed,
        probe_key: fresh_probe_secret()?,
        knobs: size.knobs.clone(),
        job: Job::Train {
            shards: shards.clone(),
            held_out: HeldOut { context: size.context, rows: 2, windows: 2 },
        },
        limits: Limits {
            device_fuel: 1 << 60,
            launch_device_fuel: 1 << 60,
            device_bytes: 4 << 30,
            train_wall_ms: size.wall_ms,
            wall_ms: 600_000,
            ..Limits::default()
        },
    };
    let report: Report =
        sandbox.run_with(component, &evaluation, RunOptions::new().native_peer()).map_err(Failure::from)?;
    let steps = report.timing.steps;
    if steps.len() < LEAST_STEPS {
        let what = format!(
            "{}: {} steps in {} s: {}",
            size.meaning,
            steps.len(),
            size.wall_ms / 1000,
            report.outcome
        );
        return Err(Failure::new(what, "try again when the machine has less to do"));
    }
    Ok(steps)
}

/// The tax, the median steps in ms, and the difference of whole steps.
fn measure(steps: &[StepTime]) -> [f64; 4] {
    let median = |of: &dyn Fn(&StepTime) -> f64| {
        let mut of: Vec<f64> = steps.iter().map(of).collect();
        of.sort_by(f64::total_cmp);
        let at = |i: usize| of.get(i).copied().unwrap_or(f64::NAN);
        (at(of.len() / 2) + at(of.len().saturating_sub(1) / 2)) / 2.0
    };
    let native = median(&|s| s.native_ns as f64);
    let more = median(&|s| {
        let guest = s.guest_ns as f64 - s.guest_kernel_ns as f64;
        guest - (s.native_ns as f64 - s.native_kernel_ns as f64)
    });
    let difference = median(&|s| s.guest_ns as f64 / s.native_ns as f64 - 1.0);
    [more / native, median(&|s| s.guest_ns as f64) / 1e6, native / 1e6, difference]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tax_is_what_the_guest_takes_longer_outside_of_kernels() {
        let step = |guest_ns, guest_kernel_ns| StepTime {
            guest_ns,
            guest_kernel_ns,
            native_ns: 1_000_000,
            native_kernel_ns: 990_000,
        };
        // 20 us more outside of kernels, whatever the kernels took.
        let steps = [step(1_020_000, 990_000), step(1_230_000, 1_200_000), step(930_000, 900_000)];
        let [tax, guest, native, difference] = measure(&steps);
        assert!((tax - 0.02).abs() < 1e-12, "{tax}");
        assert_eq!((guest, native), (1.02, 1.0));
        assert!((difference - 0.02).abs() < 1e-12, "{difference}");
    }
}
