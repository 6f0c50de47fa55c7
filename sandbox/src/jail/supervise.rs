//! The parent's side: start the launcher, drain what it says, and see to it
//! that nothing of it is left at the deadline.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{CompileFailure, Plan};
use crate::bubblewrap;
use crate::cgroup;
use crate::isolation::Isolation;
use crate::namespaces::Access;

/// One run of a launcher.
pub(super) struct Supervisor<'a> {
    pub launcher: &'a Path,
    pub plan: &'a Path,
    pub isolation: Isolation,
    pub deadline: Instant,
    /// Bytes of stderr that are kept. The rest is read and dropped, so that a
    /// flood neither fills the memory nor blocks the compiler.
    pub keep: usize,
}

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

impl Supervisor<'_> {
    pub(super) fn run(&self, plan: &Plan) -> Result<Ended, CompileFailure> {
        let io = |doing: &str| {
            let doing = doing.to_owned();
            move |error: std::io::Error| CompileFailure::io(doing, error)
        };
        let mut show: Vec<_> =
            plan.read.iter().chain(&plan.execute).map(|path| (path.clone(), Access::Read)).collect();
        show.push((self.plan.to_owned(), Access::Read));
        show.extend(plan.write.iter().map(|path| (path.clone(), Access::Write)));
        let wrapped =
            bubblewrap::command(self.launcher, self.isolation, &show).map_err(io("prepare bubblewrap"))?;
        let is_wrapped = wrapped.is_some();
        let mut command = wrapped.unwrap_or_else(|| Command::new(self.launcher));
        // Dropped last, with everything that is in it.
        let _control = cgroup::Group::hold(&mut command, self.isolation, plan.address_space)
            .map_err(io("make a control group"))?;
        let mut child = command
            .args([crate::child::MARK, "jail"])
            .arg(self.isolation.to_string())
            .arg(self.plan)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io(&format!("start {}", self.launcher.display())))?;
        let stderr = child.stderr.take();
        let pid = Pid::from_child(&child);
        let mut group = Group { child, pid, reaped: false };
        let Some(mut stderr) = stderr else {
            return Err(CompileFailure::io("read from the jail", std::io::ErrorKind::BrokenPipe.into()));
        };
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| CompileFailure::io("watch the compiler", e.into()))?;
        rustix::io::ioctl_fionbio(&stderr, true)
            .map_err(|e| CompileFailure::io("read from the jail", e.into()))?;

        let mut kept = Vec::new();
        let mut open = true;
        let mut killed_by_us = false;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
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
                open = drain(&mut stderr, &mut kept, self.keep).map_err(io("read from the jail"))?;
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
            open = drain(&mut stderr, &mut kept, self.keep).map_err(io("read from the jail"))?;
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
        Ok(Ended {
            exit: status.code(),
            signal: status
                .signal()
                .or_else(|| status.code().and_then(|code| bubblewrap::signal(is_wrapped, code))),
            killed_by_us: killed_by_us && status.signal() == Some(libc::SIGKILL),
            cpu,
            stderr: kept,
        })
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
