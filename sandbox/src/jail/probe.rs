//! What of the jail this machine has, for `doctor`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::toolchain::{self, Dirs};

/// Whether a layer is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "kebab-case")]
pub enum LayerState {
    /// Enforced.
    On,
    /// The machine has it; set-up has not been run.
    Off,
    /// The machine does not have it.
    Unavailable(String),
}

/// One layer of the jail, or one part of the toolchain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerStatus {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: LayerState,
    /// Whether untrusted source is refused without it.
    pub required: bool,
    /// What was found, or one thing to try.
    pub hint: String,
}

/// Looks at every layer. Starts one short-lived child (see
/// [`compile`](super::compile) for `launcher`).
pub fn probe(dirs: &Dirs, launcher: &Path) -> Vec<LayerStatus> {
    let mut found = vec![landlock(), seccomp(), namespaces(launcher), rlimits()];
    let status =
        |name: &str, state, hint: String| LayerStatus { name: name.into(), state, required: true, hint };
    match toolchain::Compiler::recorded(dirs) {
        Ok(compiler) => {
            found.push(status(
                "compiler",
                LayerState::On,
                format!("{} ({})", compiler.version, compiler.rustc.display()),
            ));
            found.push(status(
                "wasm target",
                LayerState::On,
                compiler.target_library().display().to_string(),
            ));
            found.push(status("linker", LayerState::On, compiler.linker.display().to_string()));
        }
        Err(error) => found.push(status("compiler", LayerState::Off, format!("{error}; {}", error.hint()))),
    }
    match toolchain::find(dirs) {
        Ok(toolchain) => found.push(status("SDK", LayerState::On, toolchain.sdk_rlib.display().to_string())),
        Err(error) => found.push(status("SDK", LayerState::Off, format!("{error}; {}", error.hint()))),
    }
    found.push(match toolchain::Clang::recorded(dirs) {
        Ok(clang) => {
            let libc = clang.sysroot.as_ref().map_or("no libc".into(), |root| root.display().to_string());
            let hint = format!("{} ({}, {libc})", clang.version, clang.program.display());
            LayerStatus { name: "C compiler".into(), state: LayerState::On, required: false, hint }
        }
        Err(error) => LayerStatus {
            name: "C compiler".into(),
            state: LayerState::Off,
            required: false,
            hint: format!("{error}; {}", error.hint()),
        },
    });
    found
}

/// The version of Landlock's interface, if the kernel has it.
/// (<https://docs.kernel.org/userspace-api/landlock.html>)
fn landlock_version() -> Result<i64, std::io::Error> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no pointer and returns a number.
    // Exercised by `the_required_layers_are_named` below.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    if version < 0 { Err(std::io::Error::last_os_error()) } else { Ok(version) }
}

fn landlock() -> LayerStatus {
    let (state, hint) = match landlock_version() {
        Ok(version) if version >= 2 => (LayerState::On, format!("interface version {version}")),
        Ok(version) => (
            LayerState::Unavailable(format!("interface version {version}, needed is 2")),
            "use Linux 5.19 or newer".into(),
        ),
        Err(error) => (
            LayerState::Unavailable(error.to_string()),
            "use Linux 5.19 or newer, started with `landlock` in the `lsm=` option".into(),
        ),
    };
    LayerStatus { name: "Landlock".into(), state, required: true, hint }
}

fn seccomp() -> LayerStatus {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call reads one u32 through the pointer, which is to a live
    // one, and changes nothing. Exercised by the test below.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    let (state, hint) = if result == 0 {
        (LayerState::On, "filters can be installed".to_owned())
    } else {
        let error = std::io::Error::last_os_error();
        (LayerState::Unavailable(error.to_string()), "use a kernel with CONFIG_SECCOMP_FILTER".to_owned())
    };
    LayerStatus { name: "seccomp".into(), state, required: true, hint }
}

fn namespaces(launcher: &Path) -> LayerStatus {
    let output = Command::new(launcher)
        .args([crate::child::MARK, "jail", super::confine::PROBE])
        .env_clear()
        .stdin(Stdio::null())
        .output();
    let state = match output {
        Ok(output) if output.status.success() => LayerState::On,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            LayerState::Unavailable(super::reason_of(&text))
        }
        Err(error) => LayerState::Unavailable(error.to_string()),
    };
    let hint = match state {
        LayerState::On => "no network and no rights of root inside".to_owned(),
        _ => "optional; `sysctl kernel.unprivileged_userns_clone=1` or AppArmor's `userns` rule allows it"
            .to_owned(),
    };
    LayerStatus { name: "namespaces".into(), state, required: false, hint }
}

fn rlimits() -> LayerStatus {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As);
    let hint = match limit.maximum {
        Some(bytes) => format!("address space is limited to {bytes} bytes from outside"),
        None => "no limit from outside".to_owned(),
    };
    LayerStatus { name: "rlimits".into(), state: LayerState::On, required: true, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_required_layers_are_named_even_where_nothing_is_set_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dirs = Dirs { cache: folder.path().into(), templates: folder.path().into() };
        let found = probe(&dirs, Path::new("/nonexistent/launcher"));
        let required: Vec<&str> =
            found.iter().filter(|layer| layer.required).map(|layer| layer.name.as_str()).collect();
        assert_eq!(required, ["Landlock", "seccomp", "rlimits", "compiler", "SDK"]);
        let namespaces = found.iter().find(|layer| layer.name == "namespaces").expect("named");
        assert!(matches!(namespaces.state, LayerState::Unavailable(_)));
        assert!(found.iter().all(|layer| !layer.hint.is_empty()));
    }
}
