//! Control groups (version 2), where somebody has delegated a folder:
//! `TERRARIUM_CGROUP` names it. Each child gets a group of its own below it,
//! with a limit of memory and of processes where those controllers are
//! delegated, and is killed with it.
//! (<https://docs.kernel.org/admin-guide/cgroup-v2.html>)
//!
//! Processor time is not limited here: every child has a deadline.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::isolation::{Isolation, LayerState};

/// Names of the groups: `terrarium-PID-NUMBER`, of the engine's process.
const PREFIX: &str = "terrarium-";

/// Processes and threads in one group.
const PROCESSES: u64 = 1024;

/// The group of one child. Everything in it is killed when this is dropped.
pub(crate) struct Group {
    path: PathBuf,
}

impl Group {
    /// Makes a group with at most `memory` bytes, and has the command start in
    /// it. `None` where nothing is delegated.
    pub(crate) fn hold(command: &mut Command, isolation: Isolation, memory: u64) -> io::Result<Option<Self>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(parent) = delegated(isolation) else { return Ok(None) };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep(&parent);
        }
        let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        let context = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        fs::create_dir(&path).map_err(context)?;
        let group = Self { path: path.clone() };
        for (file, value) in [
            ("memory.max", memory.to_string()),
            ("memory.swap.max", "0".to_owned()),
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", PROCESSES.to_string()),
        ] {
            match fs::write(path.join(file), value) {
                // The controller is not delegated; `doctor` says so.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
                other => other.map_err(context)?,
            }
        }
        let mut members =
            fs::OpenOptions::new().write(true).open(path.join("cgroup.procs")).map_err(context)?;
        // SAFETY: between fork and exec this only writes two bytes from the
        // program's text to an open file, which allocates nothing and takes no
        // lock. Exercised by `a_child_lives_and_dies_in_its_group`.
        unsafe {
            command.pre_exec(move || members.write_all(b"0\n"));
        }
        Ok(Some(group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        // A group can be removed once its last process has been taken apart.
        for _ in 0..50 {
            match fs::remove_dir(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return,
            }
        }
    }
}

fn delegated(isolation: Isolation) -> Option<PathBuf> {
    if isolation.mask.cgroup {
        return None;
    }
    std::env::var_os("TERRARIUM_CGROUP").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Removes the groups of engines that were killed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(Group { path: entry.path() });
        }
    }
}

/// What this process, a child, finds itself in.
pub(crate) fn standing(isolation: Isolation) -> LayerState {
    if isolation.mask.cgroup {
        return LayerState::Off("masked by TERRARIUM_MASK".into());
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let name = own.rsplit('/').next().unwrap_or_default();
    if !name.starts_with(PREFIX) {
        return LayerState::Off("no folder is delegated".into());
    }
    let mounted = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(|root| PathBuf::from(format!("{root}{own}")))
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists());
    let has = |file: &str| mounted.as_ref().is_some_and(|path| path.join(file).exists());
    match (has("memory.max"), has("pids.max")) {
        (true, true) => LayerState::On("memory and processes".into()),
        (true, false) => LayerState::On("memory".into()),
        (false, true) => LayerState::On("processes".into()),
        (false, false) => LayerState::Off("the folder delegates neither memory nor pids".into()),
    }
}
