//! `terrarium doctor`: what holds untrusted code on this machine, what does
//! not, and one thing to try.

use super::args::Doctor;
use super::{Ended, exit, say, workshop};
use comfy_table::{Table, presets};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use terrarium_sandbox::Level;
use terrarium_sandbox::isolation::{Layer, LayerState};
use terrarium_sandbox::probe::{self, Held, Part};
use terrarium_sandbox::toolchain::Dirs;

/// Name and version of the object of `--json`.
pub const SCHEMA: &str = "terrarium-doctor/2";

/// Shows each layer of isolation, as each kind of process really has it, and
/// each part of the set-up.
pub fn doctor(args: &Doctor) -> Ended {
    let isolation = workshop::isolation(args.isolation)?;
    let held = probe::processes(Path::new("/proc/self/exe"), isolation);
    let parts = probe::parts(&Dirs::from_env()?);
    let level = probe::level(&held);
    let missing = missing(&held, &parts, isolation.require);
    if args.json {
        say(json!({
            "schema": SCHEMA,
            "ready": missing.is_none(),
            "level": level,
            "required": isolation.require,
            "mask": isolation.mask.to_string(),
            "processes": held.iter().map(process).collect::<Vec<_>>(),
            "parts": parts.iter().map(|p| row(&p.name, &p.state, &p.hint)).collect::<Vec<_>>(),
        }));
    } else {
        say(layers(&held));
        for line in remarks(&held) {
            say(line);
        }
        let wide = parts.iter().map(|p| p.name.len()).max().unwrap_or(0);
        for part in &parts {
            say(format_args!("{:<wide$}  {:<11}  {}", part.name, part.state.word(), part.state.detail()));
        }
        say(format_args!("level  {level} (required: {})", isolation.require));
        match &missing {
            None => say("ready: candidates can be compiled and run behind glass"),
            Some((what, _)) => say(format_args!("not ready: {what}")),
        }
    }
    match missing {
        None => Ok(exit::OK),
        Some((_, hint)) => {
            if !args.json {
                eprintln!("hint: {hint}");
            }
            Ok(exit::UNAVAILABLE)
        }
    }
}

/// What keeps candidates from running here, and one thing to try.
fn missing(held: &[Held], parts: &[Part], required: Level) -> Option<(String, String)> {
    if let Some(part) = parts.iter().find(|part| !part.state.is_on()) {
        return Some((format!("{} is {}", part.name, part.state.word()), part.hint.clone()));
    }
    held.iter().find_map(|held| {
        if let Some(error) = &held.error {
            return Some((format!("{} could not be tried: {error}", held.process), "run it again".into()));
        }
        let why = held.standing.missing_for(required)?;
        let hint = "--require-isolation LEVEL takes less, at your own risk; docs/isolation.md says what";
        Some((format!("{} reaches {}; {why}", held.process, held.standing.level()), hint.into()))
    })
}

fn process(held: &Held) -> serde_json::Value {
    let layers: Vec<_> = held
        .standing
        .layers
        .iter()
        .map(|(layer, state)| row(layer.name(), state, probe::hint(*layer, state)))
        .collect();
    json!({
        "process": held.process,
        "level": held.standing.level(),
        "landlock": held.standing.landlock,
        "layers": layers,
        "error": held.error,
    })
}

fn row(name: &str, state: &LayerState, hint: &str) -> serde_json::Value {
    json!({ "name": name, "state": state.word(), "detail": state.detail(), "hint": hint })
}

fn all(held: &[Held]) -> BTreeSet<Layer> {
    held.iter().flat_map(|held| held.standing.layers.keys().copied()).collect()
}

/// One row a layer, one column a process.
fn layers(held: &[Held]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(std::iter::once("layer").chain(held.iter().map(|held| held.process)));
    for layer in all(held) {
        let words = held.iter().map(|held| held.standing.layers.get(&layer).map_or("-", LayerState::word));
        table.add_row(std::iter::once(layer.name()).chain(words));
    }
    let levels = held.iter().map(|held| held.standing.level().name());
    table.add_row(std::iter::once("level").chain(levels));
    table
}

/// How each layer holds or why it does not, once for all processes that agree.
fn remarks(held: &[Held]) -> Vec<String> {
    let mut lines = Vec::new();
    for layer in all(held) {
        let states: Vec<_> =
            held.iter().filter_map(|held| Some((held.process, held.standing.layers.get(&layer)?))).collect();
        let mut told: Vec<&LayerState> = Vec::new();
        for (_, state) in &states {
            if told.contains(state) {
                continue;
            }
            told.push(state);
            let same = states.iter().filter(|(_, other)| other == state).map(|(process, _)| *process);
            let hint = probe::hint(layer, state);
            let hint = if hint.is_empty() { String::new() } else { format!("; try: {hint}") };
            lines.push(format!(
                "{} ({}): {}, {}{hint}",
                layer.name(),
                same.collect::<Vec<_>>().join(", "),
                state.word(),
                state.detail()
            ));
        }
    }
    lines
}
