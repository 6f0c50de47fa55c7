//! `terrarium setup` and `terrarium doctor`.

use super::args::{Doctor, Setup};
use super::{Ended, exit, say, workshop};
use crate::corpus;
use serde_json::json;
use std::path::Path;
use terrarium_sandbox::jail::{LayerState, LayerStatus, probe};
use terrarium_sandbox::toolchain::{self, Dirs};

/// Finds or makes all that the first run needs.
pub fn setup(args: &Setup) -> Ended {
    let dirs = Dirs::from_env()?;
    let toolchain = toolchain::install(&dirs, &mut workshop::progress)?;
    say(format_args!("compiler  {}", toolchain.compiler.version));
    say(format_args!("sdk       {}", &toolchain.sdk_key[..16.min(toolchain.sdk_key.len())]));
    if args.c {
        let clang = toolchain::install_c(&dirs, &mut workshop::progress)?;
        let libc = if clang.sysroot.is_some() { "with wasi-libc" } else { "no libc found beside it" };
        say(format_args!("c         {} ({libc})", clang.version));
    }
    if !args.no_corpus {
        let corpus = corpus::default_corpus(&dirs, &mut workshop::progress)?;
        say(format_args!("corpus    {}", corpus.train.parent().unwrap_or(Path::new("")).display()));
    }
    Ok(exit::OK)
}

/// Shows each layer of isolation and each part of the set-up.
pub fn doctor(args: &Doctor) -> Ended {
    let dirs = Dirs::from_env()?;
    let layers = probe(&dirs, Path::new("/proc/self/exe"));
    let missing: Vec<&LayerStatus> =
        layers.iter().filter(|l| l.required && !matches!(l.state, LayerState::On)).collect();
    if args.json {
        let rows: Vec<_> = layers
            .iter()
            .map(|l| json!({ "name": l.name, "state": word(&l.state), "required": l.required, "hint": l.hint }))
            .collect();
        say(json!({ "schema": "terrarium-doctor/1", "ready": missing.is_empty(), "layers": rows }));
    } else {
        let wide = layers.iter().map(|l| l.name.len()).max().unwrap_or(0);
        for layer in &layers {
            let need = if layer.required { "" } else { " (optional)" };
            say(format_args!("{:<wide$}  {:<11}  {}{need}", layer.name, word(&layer.state), layer.hint));
        }
        match missing.first() {
            None => say("ready: candidates can be compiled and run behind glass"),
            Some(first) => say(format_args!("not ready: {} is {}", first.name, word(&first.state))),
        }
    }
    if missing.is_empty() {
        return Ok(exit::OK);
    }
    if !args.json {
        let hint = match toolchain::find(&dirs) {
            Err(e) => e.hint(),
            Ok(_) => {
                "this kernel lacks an isolation layer; --allow-unjailed runs without it, at your own risk"
                    .into()
            }
        };
        eprintln!("hint: {hint}");
    }
    Ok(exit::UNAVAILABLE)
}

fn word(state: &LayerState) -> &'static str {
    match state {
        LayerState::On => "on",
        LayerState::Off => "off",
        LayerState::Unavailable(_) => "unavailable",
    }
}
