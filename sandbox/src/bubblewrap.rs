//! bubblewrap, for machines without Landlock that let only this program make
//! user namespaces: a child is started through it, in a root folder with
//! nothing but the libraries of the system and what it needs.
//! (<https://github.com/containers/bubblewrap>, `bwrap(1)`)

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::isolation::Isolation;
use crate::landlock_rules;
use crate::namespaces::Access;

/// Where it may be. Not searched for: what is found on a search path may be
/// anybody's.
const PLACES: [&str; 2] = ["/usr/bin/bwrap", "/usr/local/bin/bwrap"];

/// Where the libraries of the system are.
const LIBRARIES: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];

/// The command that starts `exe` inside bubblewrap with `show` in its root
/// folder, where that is the best this machine has; its arguments follow.
pub(crate) fn command(
    exe: &Path,
    isolation: Isolation,
    show: &[(PathBuf, Access)],
) -> io::Result<Option<Command>> {
    let mask = isolation.mask;
    if mask.bubblewrap || landlock_rules::version(mask).is_ok() {
        return Ok(None);
    }
    if !mask.namespaces && namespaces_work(exe) {
        return Ok(None);
    }
    if usable(exe).is_err() {
        return Ok(None);
    }
    build(exe, show).map(Some)
}

/// The signal that ended a process which bubblewrap started: it adds 128.
pub(crate) fn signal(wrapped: bool, code: i32) -> Option<i32> {
    (wrapped && code > 128).then(|| code - 128)
}

/// Whether it is there and this user may use it. Tried once.
pub(crate) fn usable(exe: &Path) -> Result<(), String> {
    static USABLE: OnceLock<Result<(), String>> = OnceLock::new();
    USABLE
        .get_or_init(|| {
            let output = build(exe, &[])
                .map_err(|e| e.to_string())?
                .args([crate::child::MARK, "probe", "none/", "start"])
                .env_clear()
                .stdin(Stdio::null())
                .output()
                .map_err(|e| e.to_string())?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            Err(crate::clean(said.lines().next().unwrap_or("it failed"), 200))
        })
        .clone()
}

/// Whether a process of this user may make its own namespaces. Tried once, in
/// a child, for it needs a process of one thread.
fn namespaces_work(exe: &Path) -> bool {
    static WORK: OnceLock<bool> = OnceLock::new();
    *WORK.get_or_init(|| {
        Command::new(exe)
            .args([crate::child::MARK, "probe", "none/", "namespaces"])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

fn build(exe: &Path, show: &[(PathBuf, Access)]) -> io::Result<Command> {
    let program = PLACES.iter().find(|place| Path::new(place).exists());
    let program = program.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not installed"))?;
    let exe = fs::canonicalize(exe)?;
    let mut command = Command::new(program);
    command.args([
        "--unshare-all",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        "--proc",
        "/proc",
        "--chdir",
        "/",
    ]);
    for place in LIBRARIES {
        match fs::read_link(place) {
            Ok(target) => command.arg("--symlink").arg(target).arg(place),
            Err(_) => command.args(["--ro-bind-try", place, place]),
        };
    }
    command.arg("--ro-bind").arg(&exe).arg(&exe);
    let mut show: Vec<_> = show.iter().filter(|(path, _)| !in_libraries(path)).collect();
    // Shorter paths first, so that a folder does not cover what lies in it.
    show.sort_by_key(|(path, _)| path.components().count());
    for (path, access) in show {
        let option = if *access == Access::Read { "--ro-bind-try" } else { "--bind" };
        command.arg(option).arg(path).arg(path);
    }
    command.args(["--remount-ro", "/", "--"]).arg(exe);
    Ok(command)
}

fn in_libraries(path: &Path) -> bool {
    LIBRARIES.iter().any(|folder| path.starts_with(folder))
}
