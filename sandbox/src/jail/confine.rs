//! The child's side: give everything up, then become the compiler.
//!
//! Two processes. The *launcher*, which the engine started, stays outside and
//! watches: when the engine dies, by whatever signal, it kills the group and
//! itself with it. Its child gives everything up and becomes the compiler.
//! Where there are namespaces the child is the first process of its own
//! process-number namespace, so that nothing that it started can outlive it.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

use super::Plan;
use super::filter;
use crate::cgroup;
use crate::isolation::{Isolation, Layer, LayerState, Standing};
use crate::landlock_rules::Right;
use crate::lockdown;
use crate::namespaces::{self, Access, Show, Wanted};

/// Begins the message of a child that a missing kernel feature stopped.
pub(super) const UNAVAILABLE: &str = "unavailable: ";

/// The role of a child: locks itself down as its plan (a file, named by
/// `argument`) says, and becomes the compiler. Called by
/// [`crate::child::run_if_child`] alone, while there is one thread.
pub(crate) fn child_main(isolation: Isolation, argument: Option<std::ffi::OsString>) -> Result<(), String> {
    let argument = argument.ok_or("the jail takes one argument, its plan")?;
    let bytes = std::fs::read(argument).map_err(|e| format!("cannot read the plan: {e}"))?;
    let plan: Plan = serde_json::from_slice(&bytes).map_err(|e| format!("cannot read the plan: {e}"))?;
    launch(&plan, isolation, wait_and_become_program).map_err(|reason| format!("{} {reason}", plan.token))
}

/// For `doctor`: the same with an empty plan; what is in place goes to standard
/// output instead of starting a program.
pub(crate) fn probe_main(isolation: Isolation) -> Result<(), String> {
    let plan = Plan {
        parent: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32),
        token: String::new(),
        job: PathBuf::new(),
        compiler: PathBuf::new(),
        args: Vec::new(),
        environment: Vec::new(),
        read: Vec::new(),
        execute: Vec::new(),
        links: Vec::new(),
        cpu_seconds: 10,
        address_space: 3 << 30,
        data: 1 << 30,
        file_size: 1 << 20,
    };
    launch(&plan, isolation, |_, _, standing| {
        let text = serde_json::to_vec(&standing).map_err(|e| e.to_string())?;
        std::io::stdout().write_all(&text).map_err(|e| e.to_string())
    })
}

/// What is done in place: with the plan, `/dev/null`, and what is on.
type Then = fn(&Plan, OwnedFd, Standing) -> Result<(), String>;

fn launch(plan: &Plan, isolation: Isolation, then: Then) -> Result<(), String> {
    let context = |doing: &'static str| move |error: rustix::io::Errno| format!("{doing}: {error}");
    // bubblewrap's child leads a session already.
    let _ = rustix::process::setsid();
    let mut standing = Standing::default();
    standing.set(Layer::Cgroup, cgroup::standing(isolation));
    leave_namespaces(isolation, &mut standing);
    let watched = Watched::block()?;
    // After the namespaces: a change of credentials clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(context("prctl"))?;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    // Inside bubblewrap the parent is bubblewrap's own first process.
    if parent as u32 != plan.parent && !namespaces::root_is_small() {
        return Err("the parent is gone".into());
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(context("prctl"))?;
    rustix::thread::set_no_new_privs(true).map_err(context("no_new_privs"))?;
    limit(Resource::Core, 0)?;
    // Closed by the system when the launcher ends, however it ends.
    let (alive, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(context("pipe"))?;
    // SAFETY: there is one thread, so the child may do whatever this could.
    // Exercised by every compile of the tests.
    match unsafe { libc::fork() } {
        -1 => Err(format!("fork: {}", std::io::Error::last_os_error())),
        0 => {
            drop(held);
            watched.unblock()?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(context("prctl"))?;
            // Whoever died before that line is seen here.
            let mut ends = [rustix::event::PollFd::new(&alive, rustix::event::PollFlags::empty())];
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            if rustix::event::poll(&mut ends, Some(&none)).map_err(context("poll"))? > 0 {
                return Err("the launcher is gone".into());
            }
            // Opened while there is a path to it.
            let nothing = std::fs::File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
            confine(plan, isolation, &mut standing)?;
            then(plan, nothing.into(), standing)
        }
        child => {
            drop(alive);
            if standing.has(Layer::UserNamespace) {
                namespaces::drop_capabilities()?;
            }
            let ended = watched.until_ended(child);
            drop(held);
            ended
        }
    }
}

/// Everything is given up; the word to go, one byte on standard input, may come
/// at once or much later. Without it there is nothing to compile.
fn wait_and_become_program(plan: &Plan, nothing: OwnedFd, _: Standing) -> Result<(), String> {
    let mut word = [0];
    let read = loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut word) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map_err(|e| format!("cannot read the word to go: {e}"))?,
        }
    };
    if read == 0 {
        return Err("nobody needs the jail any more".into());
    }
    rustix::stdio::dup2_stdin(&nothing).map_err(|e| format!("standard input: {e}"))?;
    let error = Command::new(&plan.compiler)
        .args(&plan.args)
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .exec();
    Err(format!("cannot start {}: {error}", plan.compiler.display()))
}

/// The two signals that the launcher waits for.
struct Watched(libc::sigset_t);

impl Watched {
    fn block() -> Result<Self, String> {
        // SAFETY: `sigset_t` is plain numbers; each call gets a pointer to a
        // live one. Exercised by every compile of the tests.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            Self(set).change(libc::SIG_BLOCK)
        }
    }

    fn change(self, how: libc::c_int) -> Result<Self, String> {
        // SAFETY: the pointer is to a live set; a null one asks for nothing.
        let result = unsafe { libc::sigprocmask(how, &raw const self.0, std::ptr::null_mut()) };
        if result == 0 { Ok(self) } else { Err(format!("sigprocmask: {}", std::io::Error::last_os_error())) }
    }

    fn unblock(self) -> Result<(), String> {
        self.change(libc::SIG_UNBLOCK).map(drop)
    }

    /// Ends as the child ends; or, when the engine is gone, with the whole group.
    fn until_ended(self, child: libc::pid_t) -> Result<(), String> {
        let now_and_then = libc::timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        loop {
            // SAFETY: the set and the time live; no further word of the signal
            // is asked for.
            let signal = unsafe {
                libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const now_and_then)
            };
            if signal == libc::SIGTERM || nobody_listens() {
                // SAFETY: 0 names our own group, which no process of the jail
                // can leave: its filter knows neither setsid nor setpgid.
                unsafe { libc::kill(0, libc::SIGKILL) };
            }
            let mut status = 0;
            // SAFETY: the pointer is to a live number.
            let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
            if ended == child {
                end_as(status);
            }
            if ended < 0 {
                return Err(format!("waitpid: {}", std::io::Error::last_os_error()));
            }
        }
    }
}

/// Whether the engine has gone without a signal for us, for the one that we
/// are told of is bubblewrap: it alone held the other end of standard error.
fn nobody_listens() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stderr = std::io::stderr();
    let mut ends = [PollFd::new(&stderr, PollFlags::empty())];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&none)).is_ok_and(|ready| ready > 0)
        && ends[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Ends this process as another one has ended.
fn end_as(status: libc::c_int) -> ! {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        // SAFETY: plain numbers and a live set; the default action of a signal
        // that has ended a process ends this one, without a core dump.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::raise(signal);
        }
        std::process::exit(128 + signal);
    }
    std::process::exit(libc::WEXITSTATUS(status))
}

/// No network, no IPC, no process but its own, and no capability.
fn leave_namespaces(isolation: Isolation, standing: &mut Standing) {
    let all = [Layer::UserNamespace, Layer::Root, Layer::Network, Layer::Ipc, Layer::Processes];
    if isolation.mask.namespaces {
        all.into_iter().for_each(|layer| standing.masked(layer));
        return;
    }
    let wanted = Wanted { network: true, processes: true };
    let entered = namespaces::enter(wanted).map(|()| (wanted, "")).or_else(|why| {
        // A machine may allow some of them only.
        let fewer = Wanted::default();
        namespaces::enter(fewer).map(|()| (fewer, "not allowed")).map_err(|_| why)
    });
    match entered {
        Ok((wanted, why)) => {
            let on = |how: &str| LayerState::On(how.into());
            let some = |is: bool, how| if is { on(how) } else { LayerState::Unavailable(why.into()) };
            standing.set(Layer::UserNamespace, on("no capabilities"));
            standing.set(Layer::Ipc, on("empty"));
            standing.set(Layer::Network, some(wanted.network, "no interface"));
            standing.set(Layer::Processes, some(wanted.processes, "nothing outlives the compiler"));
        }
        Err(why) => all.into_iter().for_each(|layer| {
            standing.set(layer, LayerState::Unavailable(why.clone()));
        }),
    }
}

fn limit(resource: Resource, value: u64) -> Result<(), String> {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(resource, limit).map_err(|e| format!("setrlimit {resource:?}: {e}"))
}

/// Processes and threads that a compiler and its linker may have at a time.
const PROCESSES: u64 = 512;

/// Everything that binds the process that becomes the compiler.
fn confine(plan: &Plan, isolation: Isolation, standing: &mut Standing) -> Result<(), String> {
    close_inherited()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if standing.has(Layer::UserNamespace) {
        let root = namespaces::own_root(&shown(plan), &plan.links)
            .map(|()| "only what the compiler needs".to_owned());
        standing.tried(Layer::Root, root);
        // Below a user namespace of one's own the number counts from zero;
        // elsewhere all processes of the user count, which is not ours to bound.
        limit(Resource::Nproc, PROCESSES)?;
    } else if namespaces::root_is_small() {
        for layer in [Layer::Root, Layer::Network, Layer::Ipc, Layer::Processes] {
            standing.set(layer, LayerState::On("made by bubblewrap".into()));
        }
    }
    let folder = plan.job().map_or(Path::new("/"), PathBuf::as_path);
    rustix::process::chdir(folder).map_err(|e| format!("chdir: {e}"))?;
    for (resource, value) in [
        (Resource::As, plan.address_space),
        (Resource::Data, plan.data),
        (Resource::Fsize, plan.file_size),
        (Resource::Nofile, 256),
    ] {
        limit(resource, value)?;
    }
    // First a signal that names the cause, a second later the one that nothing survives.
    let cpu = Rlimit { current: Some(plan.cpu_seconds), maximum: Some(plan.cpu_seconds.saturating_add(1)) };
    rustix::process::setrlimit(Resource::Cpu, cpu).map_err(|e| format!("setrlimit: {e}"))?;
    standing
        .set(Layer::Limits, LayerState::On("memory, processor time, file size, descriptors, no core".into()));
    standing.set(
        Layer::Process,
        LayerState::On("own session, dies with its parent, no descriptors, fixed environment".into()),
    );
    lockdown::landlock(isolation, standing, &rules(plan)).map_err(|e| e.to_string())?;
    if standing.has(Layer::UserNamespace) {
        namespaces::drop_capabilities()?;
    }
    if isolation.mask.seccomp {
        standing.masked(Layer::Seccomp);
    } else {
        let applied = filter::apply().map(|()| format!("{} calls, others fail", filter::count()));
        standing.tried(Layer::Seccomp, applied);
    }
    standing.require(isolation.require).map_err(|why| format!("{UNAVAILABLE}{why}"))
}

/// What lies in the compiler's root folder.
fn shown(plan: &Plan) -> Vec<Show> {
    let files = plan.read.iter().chain(&plan.execute).chain(plan.job());
    let mut all: Vec<Show> = files.map(|path| Show::same(path, Access::Read)).collect();
    all.extend(plan.written().iter().map(|path| Show::same(path, Access::Write)));
    all.sort();
    all.dedup_by(|a, b| a.at == b.at);
    all
}

fn rules(plan: &Plan) -> Vec<(PathBuf, Right)> {
    let each = |paths: &[PathBuf], right| paths.iter().map(|path| (path.clone(), right)).collect::<Vec<_>>();
    let mut all = each(&plan.read, Right::Read);
    all.extend(plan.job().map(|job| (job.clone(), Right::Read)));
    all.extend(each(&plan.execute, Right::Execute));
    all.extend(each(&plan.written(), Right::Write));
    all
}

/// Every descriptor but the standard three closes when the compiler starts.
fn close_inherited() -> Result<(), String> {
    // SAFETY: marks descriptors, touches no memory; with CLOEXEC nothing that
    // this process still uses is closed under it. Exercised by every compile.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    if result == 0 {
        return Ok(());
    }
    // Before Linux 5.11, one by one.
    let open = std::fs::read_dir("/proc/self/fd").map_err(|e| format!("/proc/self/fd: {e}"))?;
    for number in open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok()) {
        if number > 2 {
            // SAFETY: marks a descriptor, which may be gone already.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}
