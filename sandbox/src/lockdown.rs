//! What a worker or a compiling process gives up before it touches anything
//! that a candidate wrote.
//!
//! Order matters, so a [`Lockdown`] goes through it once: [`Lockdown::begin`]
//! first in `main`, while there is one thread (namespaces); [`Lockdown::files`]
//! before any thread starts, for Landlock and capabilities bind the calling
//! thread and those it starts; [`Lockdown::calls`] last, for the system-call
//! filter binds all threads that exist, and none can be started after it.

mod filter;

use std::path::PathBuf;

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, setrlimit};

use crate::cgroup;
use crate::isolation::{Isolation, Layer, LayerState, Level, Standing};
use crate::landlock_rules;
use crate::namespaces::{self, Wanted};

/// A process is not held as it must be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockdownError {
    /// A step that never fails on a healthy machine did.
    #[error("the {layer} layer could not be put in place: {reason}")]
    Layer {
        /// Which.
        layer: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The layers that this machine has do not reach the required level.
    #[error("{0}")]
    Below(String),
}

fn failed<E: std::fmt::Display>(layer: &'static str) -> impl Fn(E) -> LockdownError {
    move |reason| LockdownError::Layer { layer, reason: reason.to_string() }
}

/// How much is left to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs candidates: may not make memory executable any more.
    Worker,
    /// Compiles to machine code into a buffer: never executes it.
    Codegen,
}

/// A process on its way down.
#[derive(Debug)]
pub struct Lockdown {
    role: Role,
    isolation: Isolation,
    standing: Standing,
}

impl Lockdown {
    /// A session of its own, death with the parent, no descriptor but the three
    /// standard ones, no core dumps, no tracing, no new privileges; namespaces
    /// where the kernel allows. Call it while there is one thread.
    ///
    /// # Errors
    /// The system refuses something that it never refuses.
    pub fn begin(role: Role, isolation: Isolation) -> Result<Self, LockdownError> {
        let fail = failed("process");
        let mut standing = Standing::default();
        // A process that already leads a group cannot start a session; it is a
        // leader then, which is what is needed.
        let _ = rustix::process::setsid();
        standing.set(Layer::Cgroup, cgroup::standing(isolation));
        leave_namespaces(isolation, &mut standing);
        // After the namespaces: a change of credentials clears it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(fail)?;
        // After the namespaces too: it hides the files of /proc that they need.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("process"))?;
        rustix::thread::set_no_new_privs(true).map_err(failed("process"))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        close_inherited().map_err(failed("process"))?;
        one_heap().map_err(failed("process"))?;
        standing.set(
            Layer::Process,
            LayerState::On("own session, dies with its parent, one socket, empty environment".into()),
        );
        limit(Resource::Core, 0)?;
        limit(Resource::Nofile, 64)?;
        limit(Resource::Stack, STACK_BYTES)?;
        if role == Role::Codegen {
            limit(Resource::As, 6 << 30)?;
            // One second between the two, so that the end shows as SIGXCPU.
            setrlimit(Resource::Cpu, Rlimit { current: Some(60), maximum: Some(61) })
                .map_err(failed("rlimits"))?;
        }
        Ok(Self { role, isolation, standing })
    }

    /// Bounds what the process may have on its heap and in private mappings, in
    /// bytes (`RLIMIT_DATA`). Address space is not bounded in a worker: wasmtime
    /// reserves far more of it than it ever touches.
    ///
    /// # Errors
    /// The system refuses.
    pub fn memory(&self, bytes: u64) -> Result<(), LockdownError> {
        limit(Resource::Data, bytes)
    }

    /// No file can be opened, created, executed or changed any more; where
    /// Landlock is new enough, no TCP port bound or connected, and no signal or
    /// abstract socket sent out of the process. An empty root folder and no
    /// capabilities, where [`Lockdown::begin`] found namespaces.
    ///
    /// # Errors
    /// Landlock is there but cannot be put in place.
    pub fn files(&mut self) -> Result<(), LockdownError> {
        let Self { isolation, standing, .. } = self;
        if standing.has(Layer::UserNamespace) {
            let root = namespaces::own_root(&[], &[]).map(|()| "empty, cannot be written".to_owned());
            standing.tried(Layer::Root, root);
            namespaces::drop_capabilities().map_err(failed("capabilities"))?;
        } else if namespaces::root_is_small() {
            standing.set(Layer::Root, LayerState::On("made by bubblewrap".into()));
        }
        landlock(*isolation, standing, &[])
    }

    /// Kills the process at the first system call that its role does not need;
    /// allows no file to grow and no process to start. Applies to all threads.
    /// Returns what is in place.
    ///
    /// # Errors
    /// The filter cannot be installed, or what is in place does not reach the
    /// required level.
    pub fn calls(mut self) -> Result<Standing, LockdownError> {
        // Not earlier: loading a component writes its memory image to a memory
        // file, and threads count as processes.
        limit(Resource::Fsize, 0)?;
        limit(Resource::Nproc, 0)?;
        self.standing.set(
            Layer::Limits,
            LayerState::On(match self.role {
                Role::Worker => "memory, files, processes, stack; time by the parent's clock".into(),
                Role::Codegen => "memory, processor time, files, processes, stack".into(),
            }),
        );
        if self.isolation.mask.seccomp {
            self.standing.masked(Layer::Seccomp);
        } else {
            // Judged before the filter, which must be the last thing that can fail.
            filter::apply(self.role).map_err(failed("seccomp"))?;
            self.standing.set(
                Layer::Seccomp,
                LayerState::On(format!("{} calls, any other kills", filter::count(self.role))),
            );
        }
        self.standing.require(self.isolation.require).map_err(LockdownError::Below)?;
        Ok(self.standing)
    }
}

/// Landlock with these rules, where the kernel has it.
pub(crate) fn landlock(
    isolation: Isolation,
    standing: &mut Standing,
    rules: &[(PathBuf, landlock_rules::Right)],
) -> Result<(), LockdownError> {
    match landlock_rules::version(isolation.mask) {
        Err(_) if isolation.mask.landlock == 0 => standing.masked(Layer::Landlock),
        Err(why) => standing.set(Layer::Landlock, LayerState::Unavailable(why)),
        Ok(_) => {
            let version = landlock_rules::restrict(isolation.mask, rules).map_err(failed("Landlock"))?;
            standing.landlock = version;
            standing.set(Layer::Landlock, LayerState::On(format!("version {version}")));
        }
    }
    Ok(())
}

/// Namespaces for a process that starts no other. Its network is left to the
/// filter, which knows no socket, unless Landlock is missing: a namespace of
/// the network costs half a millisecond, others a tenth.
fn leave_namespaces(isolation: Isolation, standing: &mut Standing) {
    if isolation.mask.namespaces {
        for layer in [Layer::UserNamespace, Layer::Root, Layer::Ipc, Layer::Network] {
            standing.masked(layer);
        }
        return;
    }
    let network = landlock_rules::version(isolation.mask).is_err() || isolation.require == Level::Full;
    let entered = namespaces::enter(Wanted { network, processes: false });
    standing.tried(Layer::UserNamespace, entered.clone().map(|()| "no capabilities".into()));
    standing.tried(Layer::Ipc, entered.clone().map(|()| "empty".into()));
    if network {
        standing.tried(Layer::Network, entered.map(|()| "no interface".into()));
    } else {
        standing.set(Layer::Network, LayerState::Off("not needed: the filter knows no socket".into()));
    }
    if !standing.has(Layer::UserNamespace) {
        standing.set(Layer::Root, LayerState::Unavailable("needs a user namespace".into()));
    }
}

fn limit(resource: Resource, value: u64) -> Result<(), LockdownError> {
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
        .map_err(|e| failed("rlimits")(format!("{resource:?}: {e}")))
}

/// Stack of the main thread.
pub(crate) const STACK_BYTES: u64 = 8 << 20;

/// Closes all descriptors but the three standard ones, and looks whether it
/// is so.
fn close_inherited() -> std::io::Result<()> {
    // SAFETY: close_range takes plain integers; nothing in this process holds
    // a descriptor above 2 yet (this runs first in `main` of a child).
    // Exercised by the tests of the lock-down.
    let r = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if r == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(error);
    }
    close_one_by_one()
}

/// For kernels before 5.9.
fn close_one_by_one() -> std::io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // SAFETY: as above; one of them was the folder's own, closed by now.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// All threads allocate from one heap. The others that glibc makes for threads
/// read a file of /proc when they shrink, which the lock-down kills for.
fn one_heap() -> std::io::Result<()> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes plain integers; no other thread exists yet.
        if unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 0 {
            return Err(std::io::Error::other("mallopt refused M_ARENA_MAX"));
        }
    }
    Ok(())
}
