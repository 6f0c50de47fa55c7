//! The door: from source to component, and from component to report.

use crate::cache::Cache;
use crate::child::{Child, ChildError};
use crate::codegen::{self, Artifact, CodegenError};
use crate::gate::ModuleLimits;
use crate::jail::{self, CompileFailure, CompileLimits};
use crate::toolchain::{self, Dirs, Toolchain, ToolchainError};
use crate::worker::{Hello, Reply};
use crate::{
    Evaluation, Job, Limits, Outcome, Phase, Report, Shards, Timing, Usage, World, encode, machine, text,
};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a [`Sandbox`] is set up.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Cache and templates.
    pub dirs: Dirs,
    /// The executable that is started again for each child process; its
    /// `main` must begin with [`crate::child::run_if_child`].
    pub exe: PathBuf,
    /// Threads of a worker's device. Results do not depend on it.
    pub threads_per_worker: usize,
    /// Limits of the compile jail.
    pub compile: CompileLimits,
    /// Limits on the shape of a module.
    pub module: ModuleLimits,
    /// Longest time for code generation.
    pub codegen_deadline: Duration,
}

impl SandboxConfig {
    /// The defaults, with this very executable as its own child.
    pub fn new(dirs: Dirs) -> Self {
        Self {
            dirs,
            exe: PathBuf::from("/proc/self/exe"),
            threads_per_worker: 1,
            compile: CompileLimits::default(),
            module: ModuleLimits::default(),
            codegen_deadline: Duration::from_secs(30),
        }
    }
}

/// The host is in trouble; the candidate is not to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// There is no compiler for candidates.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// The jail could not be built or run.
    #[error("the compile jail: {reason}")]
    Jail {
        /// What failed.
        reason: String,
        /// One thing to try.
        hint: String,
    },
    /// A child process could not do its part.
    #[error("{part}: {reason}")]
    Child {
        /// Which part.
        part: &'static str,
        /// What it said.
        reason: String,
    },
    /// The cache folder.
    #[error("the component cache {path}: {source}", path = path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A limit out of its range.
    #[error(transparent)]
    Limit(#[from] crate::LimitError),
}

impl SandboxError {
    /// One thing to try.
    pub fn hint(&self) -> String {
        match self {
            Self::Toolchain(e) => e.hint(),
            Self::Jail { hint, .. } => hint.clone(),
            Self::Child { .. } => "run `terrarium doctor`; it shows which isolation layer is missing".into(),
            Self::Cache { .. } => {
                "check the folder's owner, rights and free space, or set TERRARIUM_CACHE".into()
            }
            Self::Limit(_) => "see the limits in `terrarium eval --help`".into(),
        }
    }
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The candidate's doing: it does not compile, or was refused.
    #[error("{0}")]
    Candidate(Outcome),
    /// The host's.
    #[error(transparent)]
    Host(#[from] SandboxError),
}

/// Where the time of a build went, in microseconds; zero where the cache had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildTiming {
    /// The compiler in its jail.
    pub rustc_us: u64,
    /// Gate, metering, encoding and Cranelift, in their process.
    pub codegen_us: u64,
    /// All of the build.
    pub total_us: u64,
}

/// A candidate as machine code, ready to be evaluated.
#[derive(Clone)]
pub struct Component {
    /// BLAKE3 of everything that decides the code.
    pub id: String,
    /// The world it implements.
    pub world: World,
    /// Size of the core module.
    pub wasm_bytes: u64,
    /// Size of the machine code and its tables.
    pub code_bytes: u64,
    /// Whether it came from the cache.
    pub cached: bool,
    /// Where the time went.
    pub timing: BuildTiming,
    artifact: Arc<Artifact>,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("id", &self.id).field("world", &self.world).finish_non_exhaustive()
    }
}

/// How often something is tried again when an outsider killed its process.
const TRIES: usize = 4;

/// Idle workers that are kept.
const IDLE_WORKERS: usize = 16;

/// Largest report that is accepted from a worker.
const MAX_REPORT: usize = 512 << 20;

/// Time for a worker to load its component and lock itself down.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// What a worker was started for.
#[derive(Clone, PartialEq, Eq)]
struct Purpose {
    component: String,
    shards: Option<Shards>,
    ceilings: [u64; 4],
}

struct Idle {
    purpose: Purpose,
    worker: Child,
}

/// Compiles and runs untrusted candidates. Shared freely between threads; each
/// concurrent [`Sandbox::evaluate`] has a worker process of its own.
pub struct Sandbox {
    config: SandboxConfig,
    cache: Cache,
    idle: Mutex<Vec<Idle>>,
}

impl Sandbox {
    /// Opens the cache. The toolchain is looked up when source is compiled.
    pub fn open(config: SandboxConfig) -> Result<Self, SandboxError> {
        let path = config.dirs.cache.join("components");
        let cache = Cache::open(path.clone()).map_err(|source| SandboxError::Cache { path, source })?;
        Ok(Self { config, cache, idle: Mutex::new(Vec::new()) })
    }

    /// Everything that decides results besides source, knobs, seed and limits:
    /// recorded with a run, so that another build is not taken for the same.
    pub fn identity(&self) -> Result<String, SandboxError> {
        let toolchain = toolchain::find(&self.config.dirs)?;
        Ok(format!(
            "{}; sdk {}; {}; device cpu {}",
            toolchain.compiler.version,
            toolchain.sdk_key,
            machine::identity(),
            terrarium_kernels::cpu_kind(),
        ))
    }

    /// From source to machine code: jail, gate, metering, encoding, Cranelift,
    /// each in a killable process. Cached by content.
    pub fn build(&self, source: &str, world: World) -> Result<Component, BuildError> {
        let start = Instant::now();
        let toolchain = toolchain::ensure(&self.config.dirs, &mut |_| ()).map_err(SandboxError::from)?;
        let key = self.key(
            world,
            &[
                b"source",
                toolchain.sdk_key.as_bytes(),
                toolchain.compiler.version.as_bytes(),
                source.as_bytes(),
            ],
        );
        self.cached(&key, world, start, |timing| {
            let begin = Instant::now();
            let wasm = self.compile(source, &toolchain)?;
            timing.rustc_us = micros(begin.elapsed());
            Ok(wasm)
        })
    }

    /// The same from a core module that somebody else compiled.
    pub fn build_wasm(&self, wasm: &[u8], world: World) -> Result<Component, BuildError> {
        let key = self.key(world, &[b"wasm", wasm]);
        self.cached(&key, world, Instant::now(), |_| Ok(wasm.to_vec()))
    }

    fn key(&self, world: World, parts: &[&[u8]]) -> String {
        let mut hasher = blake3::Hasher::new();
        let module = serde_json::to_vec(&self.config.module).unwrap_or_default();
        let identity = machine::identity();
        let fixed: [&[u8]; 4] =
            [identity.as_bytes(), encode::WIT.as_bytes(), &module, world.name().as_bytes()];
        for part in fixed.iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().to_hex().to_string()
    }

    fn cached(
        &self,
        key: &str,
        world: World,
        start: Instant,
        wasm: impl FnOnce(&mut BuildTiming) -> Result<Vec<u8>, BuildError>,
    ) -> Result<Component, BuildError> {
        let mut timing = BuildTiming::default();
        let (artifact, cached) = match self.cache.load(key) {
            Some(artifact) => (artifact, true),
            None => {
                let wasm = wasm(&mut timing)?;
                let begin = Instant::now();
                let artifact = self.generate(&wasm, world)?;
                timing.codegen_us = micros(begin.elapsed());
                self.cache
                    .store(key, &artifact)
                    .map_err(|source| SandboxError::Cache { path: self.cache.dir().to_owned(), source })?;
                (artifact, false)
            }
        };
        timing.total_us = micros(start.elapsed());
        Ok(Component {
            id: key.to_owned(),
            world,
            wasm_bytes: artifact.wasm_bytes,
            code_bytes: artifact.code.len() as u64,
            cached,
            timing,
            artifact: Arc::new(artifact),
        })
    }

    fn compile(&self, source: &str, toolchain: &Toolchain) -> Result<Vec<u8>, BuildError> {
        for _ in 1..TRIES {
            match jail::compile(source, toolchain, &self.config.compile, &self.config.exe) {
                Err(CompileFailure::Killed) => {}
                result => return result.map(|compiled| compiled.wasm).map_err(jail_error),
            }
        }
        let last = jail::compile(source, toolchain, &self.config.compile, &self.config.exe);
        last.map(|compiled| compiled.wasm).map_err(jail_error)
    }

    fn generate(&self, wasm: &[u8], world: World) -> Result<Artifact, BuildError> {
        let SandboxConfig { exe, module, codegen_deadline, .. } = &self.config;
        for _ in 0..TRIES {
            match codegen::compile(exe, wasm, world, module, *codegen_deadline) {
                Err(CodegenError::Killed) => {}
                Err(CodegenError::Candidate(outcome)) => return Err(BuildError::Candidate(outcome)),
                Err(CodegenError::Host(reason)) => {
                    return Err(SandboxError::Child { part: "the compiling process", reason }.into());
                }
                Ok(artifact) => return Ok(artifact),
            }
        }
        Err(BuildError::Candidate(Outcome::WorkerDied { signal: libc::SIGKILL, phase: Phase::Codegen }))
    }

    /// Runs one evaluation in a locked-down worker. Blocks; call it from
    /// several threads for parallelism. Whatever the candidate does, the answer
    /// is a report; an error means that the host is in trouble.
    pub fn evaluate(&self, component: &Component, evaluation: &Evaluation) -> Result<Report, SandboxError> {
        evaluation.limits.check()?;
        let mut report = self.attempt(component, evaluation)?;
        for _ in 1..TRIES {
            if !report.outcome.is_infrastructure() {
                break;
            }
            report = self.attempt(component, evaluation)?;
        }
        Ok(report)
    }

    fn attempt(&self, component: &Component, evaluation: &Evaluation) -> Result<Report, SandboxError> {
        let start = Instant::now();
        let purpose = Purpose::of(component, evaluation);
        let mut worker = match self.take_idle(&purpose) {
            Some(worker) => worker,
            None => match self.start(component, &purpose, &evaluation.limits)? {
                Some(worker) => worker,
                // Killed from outside before it was ready.
                None => {
                    return Ok(ended(Outcome::WorkerDied {
                        signal: libc::SIGKILL,
                        phase: Phase::Instantiate,
                    }));
                }
            },
        };
        let mut phase = match evaluation.job {
            Job::Train { .. } => Phase::Init,
            Job::Call { .. } | Job::Calls { .. } => Phase::Call,
        };
        let end = start + Duration::from_millis(evaluation.limits.wall_ms);
        let mut answer = worker.send(evaluation).map(|()| Reply::Ready);
        while let Ok(Reply::Ready | Reply::Entered(_)) = answer {
            if let Ok(Reply::Entered(now)) = answer {
                phase = now;
            }
            answer = worker.receive(MAX_REPORT, end.saturating_duration_since(Instant::now()));
        }
        let mut report = match answer {
            Ok(Reply::Done(report)) => {
                // A guest that ended in a trap leaves nothing behind in a fresh
                // store, but its worker is not trusted with another one.
                if matches!(
                    report.outcome,
                    Outcome::Finished | Outcome::GuestError { .. } | Outcome::OutOfFuel { .. }
                ) {
                    self.keep(purpose, worker);
                }
                *report
            }
            Ok(Reply::Failed(reason)) => return Err(SandboxError::Child { part: "the worker", reason }),
            Ok(Reply::Ready | Reply::Entered(_)) | Err(ChildError::Deadline) => {
                ended(Outcome::Deadline { phase })
            }
            Err(ChildError::Died { signal }) => ended(Outcome::WorkerDied { signal, phase }),
            Err(ChildError::Io(e)) => {
                return Err(SandboxError::Child { part: "the worker's channel", reason: e.to_string() });
            }
        };
        report.timing.total_us = micros(start.elapsed());
        Ok(report)
    }

    fn start(
        &self,
        component: &Component,
        purpose: &Purpose,
        limits: &Limits,
    ) -> Result<Option<Child>, SandboxError> {
        let trouble = |reason: String| SandboxError::Child { part: "starting a worker", reason };
        let mut worker = Child::spawn(&self.config.exe, "worker").map_err(|e| trouble(e.to_string()))?;
        let hello = Hello {
            artifact: Artifact::clone(&component.artifact),
            shards: purpose.shards.clone(),
            threads: self.config.threads_per_worker,
            memory_bytes: limits.memory_bytes,
            table_elements: limits.table_elements,
            device_bytes: limits.device_bytes,
            tensors: limits.tensors,
        };
        match worker.send(&hello).and_then(|()| worker.receive::<Reply>(MAX_REPORT, START_DEADLINE)) {
            Ok(Reply::Ready) => Ok(Some(worker)),
            Ok(Reply::Failed(reason)) => Err(trouble(text::clean(&reason, 2_000))),
            Ok(_) => Err(trouble("it answered out of turn".into())),
            Err(ChildError::Died { signal: libc::SIGKILL | libc::SIGTERM }) => Ok(None),
            Err(e) => Err(trouble(e.to_string())),
        }
    }

    fn take_idle(&self, purpose: &Purpose) -> Option<Child> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(at) = idle.iter().position(|i| i.purpose == *purpose) {
            let mut worker = idle.swap_remove(at).worker;
            if worker.is_alive() {
                return Some(worker);
            }
        }
        None
    }

    fn keep(&self, purpose: Purpose, worker: Child) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(Idle { purpose, worker });
        if idle.len() > IDLE_WORKERS {
            idle.remove(0); // The oldest; dropping kills and reaps it.
        }
    }

    /// Ends all workers that wait for work.
    pub fn drain(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Process ids of the workers that wait for work.
    pub fn idle_workers(&self) -> Vec<u32> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|i| i.worker.id()).collect()
    }
}

impl Purpose {
    fn of(component: &Component, evaluation: &Evaluation) -> Self {
        let l = &evaluation.limits;
        Self {
            component: component.id.clone(),
            shards: match &evaluation.job {
                Job::Train { shards, .. } => Some(shards.clone()),
                Job::Call { .. } | Job::Calls { .. } => None,
            },
            ceilings: [l.memory_bytes, l.table_elements, l.device_bytes, l.tensors],
        }
    }
}

/// A report of a worker that cannot report any more.
fn ended(outcome: Outcome) -> Report {
    Report {
        outcome,
        product: None,
        knobs: Vec::new(),
        metrics: Vec::new(),
        log: String::new(),
        usage: Usage::default(),
        timing: Timing::default(),
    }
}

fn jail_error(failure: CompileFailure) -> BuildError {
    match failure.into_outcome() {
        Ok(outcome) => BuildError::Candidate(outcome),
        Err((reason, hint)) => BuildError::Host(SandboxError::Jail { reason, hint }),
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
