//! The parent's side: start a launcher, let it go, drain what it says, and see to it
//! that nothing of it is left at the deadline.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{CompileFailure, CompileLimits, Plan, WRITTEN, fresh_token, new_job};
use crate::bubblewrap;
use crate::cgroup;
use crate::isolation::Isolation;
use crate::namespaces::Access;

/// The compiler's current folder, below the job's.
const ROOT: &str = "job";

/// A launcher for some job: everything but the source.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Order {
    launcher: PathBuf,
    isolation: Isolation,
    plan: Plan,
}

/// A launcher in a job's folder of its own. It gives everything up and then
/// waits, for as long as it takes, for the word to go.
pub(super) struct Waiting {
    // In the order in which they go: no process outlives its folder.
    group: Group,
    go: ChildStdin,
    stderr: ChildStderr,
    is_wrapped: bool,
    token: String,
    /// With everything that is in it.
    control: Option<cgroup::Group>,
    job: TempDir,
}

/// A launcher that was told to go.
pub(super) struct Running(Waiting);

/// How a run ended.
pub(super) struct Ended {
    /// The exit code, if it ended by itself.
    pub exit: Option<i32>,
    /// The signal that ended it otherwise.
    pub signal: Option<i32>,
    /// Whether that signal was the deadline's.
    pub killed_by_us: bool,
    /// Processor time of the compiler and of what it waited for.
    pub cpu: Duration,
    /// The first `keep` bytes of stderr.
    pub stderr: Vec<u8>,
    /// What the launcher's own words in it begin with.
    pub token: String,
}

/// A process group that does not outlive its owner.
struct Group {
    child: Child,
    pid: Pid,
    reaped: bool,
}

impl Group {
    /// Kills the group and the process itself, which may not have made its
    /// group yet. Neither number can have been given to anyone else: the
    /// process has not been reaped.
    fn kill(&self) {
        if !self.reaped {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if !self.reaped {
            let _ = self.child.wait();
        }
    }
}

impl Order {
    pub(super) fn new(plan: Plan, limits: &CompileLimits, launcher: &Path) -> Self {
        Self { launcher: launcher.to_owned(), isolation: limits.isolation, plan }
    }

    /// Makes the job's folder and starts the launcher.
    pub(super) fn start(&self) -> Result<Waiting, CompileFailure> {
        let io = CompileFailure::io;
        let job = new_job()?;
        // The compiler's view is the `job` folder; the plan lies beside it.
        let root = job.path().join(ROOT);
        for folder in WRITTEN.into_iter().chain(["in"]) {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|e| io(format!("create {}", path.display()), e))?;
        }
        let plan = Plan { token: fresh_token(), job: root, ..self.plan.clone() };
        let file = job.path().join("plan.json");
        let text =
            serde_json::to_vec(&plan).map_err(|e| io("write the plan".into(), std::io::Error::other(e)))?;
        fs::write(&file, text).map_err(|e| io("write the plan".into(), e))?;

        let read = plan.read.iter().chain(&plan.execute).chain([&plan.job, &file]);
        let mut show: Vec<_> = read.map(|path| (path.clone(), Access::Read)).collect();
        show.extend(plan.written().into_iter().map(|path| (path, Access::Write)));
        let wrapped = bubblewrap::command(&self.launcher, self.isolation, &show)
            .map_err(|e| io("prepare bubblewrap".into(), e))?;
        let is_wrapped = wrapped.is_some();
        let mut command = wrapped.unwrap_or_else(|| Command::new(&self.launcher));
        let control = cgroup::Group::hold(&mut command, self.isolation, plan.address_space)
            .map_err(|e| io("make a control group".into(), e))?;
        let mut child = command
            .args([crate::child::MARK, "jail"])
            .arg(self.isolation.to_string())
            .arg(&file)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| io(format!("start {}", self.launcher.display()), e))?;
        let ends = (child.stdin.take(), child.stderr.take());
        let pid = Pid::from_child(&child);
        let group = Group { child, pid, reaped: false };
        let (Some(go), Some(stderr)) = ends else {
            return Err(io("talk to the jail".into(), std::io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Waiting { group, go, stderr, is_wrapped, token: plan.token, control, job })
    }
}

impl Waiting {
    /// The compiler's current folder.
    pub(super) fn root(&self) -> PathBuf {
        self.job.path().join(ROOT)
    }

    /// Whether nobody has ended it meanwhile.
    pub(super) fn is_alive(&mut self) -> bool {
        let ended = self.group.child.try_wait();
        self.group.reaped = matches!(ended, Ok(Some(_)));
        matches!(ended, Ok(None))
    }

    /// Lets it go on.
    pub(super) fn go(mut self) -> Running {
        // One that has ended has said why.
        let _ = self.go.write_all(b"!");
        Running(self)
    }
}

impl Running {
    /// Waits for the end, which comes at `deadline` at the latest; keeps the
    /// first `keep` bytes that were said. The rest is read and dropped, so that
    /// a flood neither fills the memory nor blocks the compiler. The job's
    /// folder is the caller's then.
    pub(super) fn watch(self, deadline: Instant, keep: usize) -> Result<(TempDir, Ended), CompileFailure> {
        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |error: std::io::Error| CompileFailure::io(doing, error)
        };
        // Dropped from the last to the first: no process outlives its folder.
        let Waiting { job, control: _control, token, is_wrapped, mut group, mut stderr, go: _go } = self.0;
        let pid = group.pid;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| CompileFailure::io("watch the compiler", e.into()))?;
        rustix::io::ioctl_fionbio(&stderr, true)
            .map_err(|e| CompileFailure::io("read from the jail", e.into()))?;

        let mut kept = Vec::new();
        let mut open = true;
        let mut killed_by_us = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !killed_by_us {
                killed_by_us = true;
                group.kill();
            }
            // Once killed it ends as soon as the kernel gets to it.
            let wait = if killed_by_us { Duration::from_secs(1) } else { left };
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
            let mut watched = vec![PollFd::new(&pidfd, PollFlags::IN)];
            if open {
                watched.push(PollFd::new(&stderr, PollFlags::IN));
            }
            match poll(&mut watched, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CompileFailure::io("watch the compiler", error.into())),
            }
            let ended = !watched[0].revents().is_empty();
            if open {
                open = drain(&mut stderr, &mut kept, keep).map_err(io("read from the jail"))?;
            }
            if ended {
                break;
            }
        }
        // The leader is gone but not yet reaped: its number still names the
        // group, in which a linker may have been left behind.
        group.kill();
        // The last of them closes the pipe when it is gone.
        let patience = Instant::now() + Duration::from_secs(1);
        while open {
            open = drain(&mut stderr, &mut kept, keep).map_err(io("read from the jail"))?;
            let left = patience.saturating_duration_since(Instant::now());
            if !open || left.is_zero() {
                break;
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&stderr, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CompileFailure::io("watch the compiler", error.into())),
            }
        }
        let (status, cpu) = reap(pid).map_err(io("wait for the compiler"))?;
        group.reaped = true;
        let ended = Ended {
            exit: status.code(),
            signal: status
                .signal()
                .or_else(|| status.code().and_then(|code| bubblewrap::signal(is_wrapped, code))),
            killed_by_us: killed_by_us && status.signal() == Some(libc::SIGKILL),
            cpu,
            stderr: kept,
            token,
        };
        Ok((job, ended))
    }
}

/// Reads all there is; keeps the first `keep` bytes. Says whether more may come.
fn drain(from: &mut impl Read, kept: &mut Vec<u8>, keep: usize) -> std::io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    // Bounded, so that a flood cannot hold up the deadline.
    for _ in 0..64 {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                let room = keep.saturating_sub(kept.len()).min(count);
                kept.extend_from_slice(&buffer[..room]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Waits for one process, with the processor time that it and its children used.
fn reap(pid: Pid) -> std::io::Result<(std::process::ExitStatus, Duration)> {
    let mut status: libc::c_int = 0;
    // SAFETY: `rusage` is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the types that `wait4`
        // writes; the process is a child of ours that nobody else waits for.
        // Exercised by every compile in the tests.
        let result = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, &mut usage) };
        if result >= 0 {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.max(0) as u64) + Duration::from_micros(value.tv_usec.max(0) as u64)
    };
    Ok((std::process::ExitStatus::from_raw(status), time(usage.ru_utime) + time(usage.ru_stime)))
}
