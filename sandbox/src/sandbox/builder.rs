//! How a sandbox is set up.

use super::{Sandbox, SandboxError};
use crate::gate::{ComponentLimits, ModuleLimits};
use crate::host::HostFunctions;
use crate::isolation::Isolation;
use crate::jail::CompileLimits;
use crate::toolchain::Dirs;
use std::path::PathBuf;
use std::time::Duration;

/// How a [`Sandbox`] is set up: all of it, with defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SandboxConfig {
    /// Cache and templates.
    pub dirs: Dirs,
    /// The executable that is started again for each child process; its
    /// `main` must begin with [`crate::child::run_if_child`].
    pub exe: PathBuf,
    /// Threads of a worker's device. Results do not depend on it.
    pub threads_per_worker: usize,
    /// Most workers at work at a time. Further callers wait, in order.
    pub workers: usize,
    /// Most workers that are kept waiting for work.
    pub idle_workers: usize,
    /// Longest wait for a worker, before [`SandboxError::Busy`].
    pub queue_timeout: Duration,
    /// The device of workers, by the name under which the child's `main`
    /// registers it (see [`crate::child::run_if_child_with`]); `cpu` is built in.
    pub device: String,
    /// Where a broker listens that lends workers its device, instead of
    /// `device`; see [`crate::broker`].
    pub broker: Option<PathBuf>,
    /// Functions that guests of the world `function` may call. A run or an
    /// instance can bring its own instead.
    pub host_functions: HostFunctions,
    /// How strongly every child process must be held. (`compile.isolation` is
    /// set from it.)
    pub isolation: Isolation,
    /// Limits of the compile jail.
    pub compile: CompileLimits,
    /// Limits on the shape of a module.
    pub module: ModuleLimits,
    /// Limits on the shape of a component.
    pub component: ComponentLimits,
    /// Whether guests may import WASI, where
    /// [`Sandbox::compile_with`] does not say otherwise. Off unless set.
    pub wasi: bool,
    /// Longest time for code generation.
    pub codegen_deadline: Duration,
}

impl SandboxConfig {
    /// The defaults, with this very executable as its own child.
    pub fn new(dirs: Dirs) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            dirs,
            exe: PathBuf::from("/proc/self/exe"),
            threads_per_worker: 1,
            broker: None,
            workers: (4 * cores).max(16),
            idle_workers: 16,
            queue_timeout: Duration::from_secs(600),
            device: crate::child::CPU.to_owned(),
            host_functions: HostFunctions::new(),
            isolation: Isolation::default(),
            compile: CompileLimits::default(),
            module: ModuleLimits::default(),
            component: ComponentLimits::default(),
            wasi: false,
            codegen_deadline: Duration::from_secs(30),
        }
    }
}

/// Sets up a [`Sandbox`] step by step; made by [`Sandbox::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SandboxBuilder {
    dirs: Option<Dirs>,
    cache: Option<PathBuf>,
    /// Without folders, until they are known.
    config: SandboxConfig,
}

impl SandboxBuilder {
    pub(super) fn new() -> Self {
        let nowhere = Dirs { cache: PathBuf::new(), templates: PathBuf::new() };
        Self { dirs: None, cache: None, config: SandboxConfig::new(nowhere) }
    }

    /// Cache and templates. Otherwise those that the environment names
    /// ([`Dirs::from_env`]).
    pub fn dirs(mut self, dirs: Dirs) -> Self {
        self.dirs = Some(dirs);
        self
    }

    /// The cache folder alone.
    pub fn cache(mut self, cache: impl Into<PathBuf>) -> Self {
        self.cache = Some(cache.into());
        self
    }

    /// The executable that is started again for each child process; otherwise
    /// this very one. Its `main` must begin with
    /// [`run_if_child`](crate::child::run_if_child).
    pub fn child_executable(mut self, exe: impl Into<PathBuf>) -> Self {
        self.config.exe = exe.into();
        self
    }

    /// Threads of a worker's device; otherwise 1. Results do not depend on it.
    pub fn threads_per_worker(mut self, threads: usize) -> Self {
        self.config.threads_per_worker = threads;
        self
    }

    /// Most workers at work at a time; otherwise four per core, at least 16.
    /// Long-lived instances count.
    pub fn workers(mut self, workers: usize) -> Self {
        self.config.workers = workers;
        self
    }

    /// Most workers that are kept waiting for work; otherwise 16.
    pub fn idle_workers(mut self, workers: usize) -> Self {
        self.config.idle_workers = workers;
        self
    }

    /// Longest wait for a worker, before [`SandboxError::Busy`]; otherwise ten
    /// minutes.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.config.queue_timeout = timeout;
        self
    }

    /// The device of workers, by the name under which the child's `main`
    /// registers it; otherwise `cpu`.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.config.device = name.into();
        self
    }

    /// Where a broker listens that lends workers its device.
    pub fn broker(mut self, socket: impl Into<PathBuf>) -> Self {
        self.config.broker = Some(socket.into());
        self
    }

    /// Functions that every guest of the world `function` may call.
    pub fn host_functions(mut self, functions: HostFunctions) -> Self {
        self.config.host_functions = functions;
        self
    }

    /// How strongly every child process must be held; see
    /// [`Level`](crate::Level).
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.config.isolation = isolation;
        self
    }

    /// Limits of the compile jail.
    pub fn compile_limits(mut self, limits: CompileLimits) -> Self {
        self.config.compile = limits;
        self
    }

    /// Limits on the shape of a module.
    pub fn module_limits(mut self, limits: ModuleLimits) -> Self {
        self.config.module = limits;
        self
    }

    /// Limits on the shape of components.
    pub fn component_limits(mut self, limits: ComponentLimits) -> Self {
        self.config.component = limits;
        self
    }

    /// Whether guests may import WASI. What they find there holds nothing; see
    /// `docs/guests.md`.
    pub fn wasi(mut self, on: bool) -> Self {
        self.config.wasi = on;
        self
    }

    /// Longest time for code generation; otherwise 30 seconds.
    pub fn codegen_deadline(mut self, deadline: Duration) -> Self {
        self.config.codegen_deadline = deadline;
        self
    }

    /// Opens the sandbox.
    ///
    /// # Errors
    /// No cache folder, or one that cannot be used; names of host functions
    /// that do not fit.
    pub fn build(self) -> Result<Sandbox, SandboxError> {
        let mut dirs = match self.dirs {
            Some(dirs) => dirs,
            None => Dirs::from_env()?,
        };
        if let Some(cache) = self.cache {
            dirs.cache = cache;
        }
        Sandbox::open(SandboxConfig { dirs, ..self.config })
    }
}
