//! What holds the child processes on this machine, for `doctor`. Not read off
//! the kernel's version: each kind of process is started, puts its layers in
//! place, and tells which came to be.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::bubblewrap;
use crate::cgroup;
use crate::isolation::{Isolation, Layer, LayerState, Level, Standing};
use crate::lockdown::{Lockdown, Role};
use crate::namespaces::{self, Wanted};
use crate::toolchain::{self, Dirs};
use crate::{child, jail};

/// The kinds of process that meet untrusted code.
pub const PROCESSES: [&str; 3] = ["jail", "codegen", "worker"];

/// What one kind of process has.
#[derive(Clone, Debug)]
pub struct Held {
    /// `jail`, `codegen` or `worker`.
    pub process: &'static str,
    /// Its layers.
    pub standing: Standing,
    /// Why it could not be tried.
    pub error: Option<String>,
}

/// One part of the set-up that is no layer: compiler, linker, SDK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: LayerState,
    /// One thing to try.
    pub hint: String,
}

/// Starts each kind of process once, to see which layers come to be. `exe` as
/// in [`SandboxConfig::exe`](crate::SandboxConfig::exe).
pub fn processes(exe: &Path, isolation: Isolation) -> Vec<Held> {
    let started = Isolation { require: Level::None, ..isolation };
    PROCESSES
        .into_iter()
        .map(|process| match ask(exe, started, process) {
            Ok(standing) => Held { process, standing, error: None },
            Err(error) => Held { process, standing: Standing::default(), error: Some(error) },
        })
        .collect()
}

/// The level that all of them reach.
pub fn level(held: &[Held]) -> Level {
    held.iter().map(|held| held.standing.level()).min().unwrap_or(Level::None)
}

/// Refuses, in one sentence, a machine that does not reach the required level.
///
/// # Errors
/// What is missing, in which process.
pub fn require(exe: &Path, isolation: Isolation) -> Result<Level, String> {
    let held = processes(exe, isolation);
    for Held { process, standing, error } in &held {
        if let Some(error) = error {
            return Err(format!("the {process} process could not be tried: {error}"));
        }
        standing.require(isolation.require).map_err(|why| format!("{why}, in the {process} process"))?;
    }
    Ok(level(&held))
}

fn ask(exe: &Path, isolation: Isolation, process: &str) -> Result<Standing, String> {
    let wrapped = bubblewrap::command(exe, isolation, &[]).map_err(|e| e.to_string())?;
    let mut command = wrapped.unwrap_or_else(|| Command::new(exe));
    let _control = cgroup::Group::hold(&mut command, isolation, 1 << 30).map_err(|e| e.to_string())?;
    let output = command
        .args([child::MARK, "probe", &isolation.to_string(), process])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start {}: {e}", exe.display()))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        crate::clean(said.trim(), 400) + &format!(" ({})", output.status)
    })
}

/// The child's side.
pub(crate) fn child_main(isolation: Isolation, what: Option<OsString>) -> Result<(), String> {
    let locked = |role| {
        let mut lockdown = Lockdown::begin(role, isolation).map_err(|e| e.to_string())?;
        lockdown.files().map_err(|e| e.to_string())?;
        let standing = lockdown.calls().map_err(|e| e.to_string())?;
        let text = serde_json::to_vec(&standing).map_err(|e| e.to_string())?;
        std::io::stdout().write_all(&text).map_err(|e| e.to_string())
    };
    match what.as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("start") => Ok(()),
        Some("namespaces") => {
            namespaces::enter(Wanted { network: true, processes: true })?;
            namespaces::own_root(&[], &[])
        }
        Some("jail") => jail::probe_main(isolation),
        Some("codegen") => locked(Role::Codegen),
        Some("worker") => locked(Role::Worker),
        _ => Err(format!("nothing named {what:?} can be probed")),
    }
}

/// One thing to try where a layer is missing.
pub fn hint(layer: Layer, state: &LayerState) -> &'static str {
    match (state, layer) {
        (LayerState::On(_), _) => "",
        (LayerState::Off(why), _) if why.contains("masked") => "unset TERRARIUM_MASK",
        (_, Layer::Landlock) => "use Linux 5.13 or newer, started with `landlock` in the `lsm=` option",
        (_, Layer::Seccomp) => "use a kernel with CONFIG_SECCOMP_FILTER",
        (LayerState::Off(_), Layer::Network) => "",
        (_, Layer::UserNamespace | Layer::Root | Layer::Network | Layer::Ipc | Layer::Processes) => {
            "`sysctl kernel.unprivileged_userns_clone=1`, an AppArmor profile with `userns`, or install bubblewrap"
        }
        (_, Layer::Cgroup) => "set TERRARIUM_CGROUP to a delegated cgroup v2 folder",
        (_, Layer::Limits | Layer::Process) => "report this machine",
    }
}

/// Compiler, target library, linker and SDK.
pub fn parts(dirs: &Dirs) -> Vec<Part> {
    let part = |name: &str, state, hint: String| Part { name: name.into(), state, hint };
    let on = |text: String| LayerState::On(text);
    let mut found = Vec::new();
    match toolchain::Compiler::recorded(dirs) {
        Ok(compiler) => {
            let rustc = format!("{} ({})", compiler.version, compiler.rustc.display());
            found.push(part("compiler", on(rustc), String::new()));
            let library = compiler.target_library().display().to_string();
            found.push(part("wasm target", on(library), String::new()));
            found.push(part("linker", on(compiler.linker.display().to_string()), String::new()));
        }
        Err(error) => {
            found.push(part("compiler", LayerState::Off(error.to_string()), error.hint()));
        }
    }
    match toolchain::find(dirs) {
        Ok(toolchain) => {
            found.push(part("SDK", on(toolchain.sdk_rlib.display().to_string()), String::new()));
        }
        Err(error) => found.push(part("SDK", LayerState::Off(error.to_string()), error.hint())),
    }
    // Not needed unless somebody gives it C.
    if let Ok(clang) = toolchain::Clang::recorded(dirs) {
        let libc = clang.sysroot.as_ref().map_or("no libc".into(), |root| root.display().to_string());
        let text = format!("{} ({}, {libc})", clang.version, clang.program.display());
        found.push(part("C compiler", on(text), String::new()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_up_that_is_missing_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dirs = Dirs { cache: folder.path().into(), templates: folder.path().into() };
        let found = parts(&dirs);
        assert_eq!(found.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["compiler", "SDK"]);
        assert!(found.iter().all(|part| !part.state.is_on() && part.hint.contains("terrarium setup")));
    }

    #[test]
    fn a_process_that_cannot_start_is_below_every_level() {
        let none = Isolation { require: Level::None, ..Isolation::default() };
        let refused = require(Path::new("/nonexistent/cell"), none).unwrap_err();
        assert!(refused.contains("/nonexistent/cell") && !refused.contains('\n'), "{refused}");
    }
}
