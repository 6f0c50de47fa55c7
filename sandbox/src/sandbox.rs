//! The door: from a candidate's program to a component. What runs a component
//! is in [`run`](self::run), [`batch`](self::batch) and
//! [`instance`](self::instance).

mod admission;
mod batch;
mod builder;
mod error;
mod instance;
mod pending;
mod pool;
mod run;
mod session;

use crate::cache::Cache;
use crate::child::Children;
use crate::codegen::{self, Artifact, CodegenError, Form};
use crate::jail::{self, CProgram, CompileFailure, Compiled};
use crate::toolchain::{self, Clang, ToolchainError};
use crate::{Outcome, Phase, Source, World, encode, machine};
use admission::Admission;
use pool::Pool;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use builder::{SandboxBuilder, SandboxConfig};
pub use error::{BuildError, SandboxError};
pub use instance::{CallError, Instance, InstanceOptions, OnLog};
pub use pending::Pending;
pub use run::RunOptions;

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

/// How a program is built, besides for which world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildOptions {
    /// Whether it may import WASI (`docs/guests.md` says what it finds there).
    /// The world [`World::Command`] implies it.
    pub wasi: bool,
}

impl BuildOptions {
    /// With nothing turned on.
    pub fn new() -> Self {
        Self::default()
    }

    /// With WASI, or without it.
    #[must_use]
    pub fn wasi(self, wasi: bool) -> Self {
        Self { wasi, ..self }
    }
}

/// What is to be generated.
#[derive(Clone, Copy)]
struct Shape {
    world: World,
    form: Form,
    wasi: bool,
}

/// How often something is tried when an outsider killed its process.
const TRIES: usize = 4;

/// Compiles and runs untrusted candidates. Shared freely between threads; each
/// evaluation has a worker process to itself while it runs.
pub struct Sandbox {
    config: SandboxConfig,
    cache: Cache,
    pool: Pool,
    admission: Arc<Admission>,
    children: Children,
    jails: jail::Jails,
}

impl Sandbox {
    /// Sets up a sandbox step by step.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::new()
    }

    /// Opens the cache. The toolchain is looked up when source is compiled.
    ///
    /// # Errors
    /// A cache folder that cannot be used; names of host functions that do not
    /// fit.
    pub fn open(mut config: SandboxConfig) -> Result<Self, SandboxError> {
        config.host_functions.check().map_err(|reason| SandboxError::HostFunctions { reason })?;
        config.compile.isolation = config.isolation;
        let path = config.dirs.cache.join("components");
        let cache = Cache::open(path.clone()).map_err(|source| SandboxError::Cache { path, source })?;
        let pool = Pool::new(config.idle_workers.min(config.workers));
        let admission = Admission::new(config.workers);
        let (children, jails) = Default::default();
        Ok(Self { config, cache, pool, admission, children, jails })
    }

    /// Everything that decides results besides source, knobs, seed and limits:
    /// recorded with a run, so that another build is not taken for the same.
    pub fn identity(&self) -> Result<String, SandboxError> {
        let compiler = match toolchain::find(&self.config.dirs) {
            Ok(toolchain) => format!("{}; sdk {}", toolchain.compiler.version, toolchain.sdk_key),
            // Modules that were compiled elsewhere can be run all the same.
            Err(ToolchainError::NotInstalled { .. }) => "no compiler".to_owned(),
            Err(error) => return Err(error.into()),
        };
        let device = match &self.config.broker {
            Some(path) => crate::broker::kind(path).map_err(|e| SandboxError::Child {
                part: "asking the device's broker",
                reason: e.to_string(),
            })?,
            None => format!("{} {}", self.config.device, terrarium_kernels::cpu_kind()),
        };
        Ok(format!("{compiler}; {}; device {device}", machine::identity()))
    }

    /// From a candidate's program to machine code for `world`: jail, gate,
    /// metering, encoding, Cranelift, each in a killable process. Blocks.
    /// Cached by content.
    ///
    /// # Errors
    /// [`BuildError::Candidate`] with the outcome where the program is to
    /// blame, [`BuildError::Host`] where the host is.
    pub fn compile(&self, source: Source<'_>, world: World) -> Result<Component, BuildError> {
        self.compile_with(source, world, BuildOptions { wasi: self.config.wasi })
    }

    /// The same with options of its own, instead of the sandbox's.
    ///
    /// # Errors
    /// As [`Sandbox::compile`].
    pub fn compile_with(
        &self,
        source: Source<'_>,
        world: World,
        options: BuildOptions,
    ) -> Result<Component, BuildError> {
        let start = Instant::now();
        let kind = source.kind().as_bytes();
        let wasi = options.wasi || world == World::Command;
        let shape = |form| Shape { world, form, wasi };
        let wasi = [u8::from(wasi)];
        match source {
            Source::Rust(text) => {
                let toolchain =
                    toolchain::ensure(&self.config.dirs, &mut |_| ()).map_err(SandboxError::from)?;
                let (sdk, version) = (toolchain.sdk_key.as_bytes(), toolchain.compiler.version.as_bytes());
                let key = self.key(world, &[kind, sdk, version, text.as_bytes()]);
                self.cached(&key, shape(Form::Module), start, |timing| {
                    let begin = Instant::now();
                    let (limits, exe) = (&self.config.compile, &self.config.exe);
                    let wasm = jailed(|| self.jails.compile(text, &toolchain, limits, exe))?;
                    timing.rustc_us = micros(begin.elapsed());
                    Ok(wasm)
                })
            }
            Source::C(text) => {
                let program = match world {
                    World::Trainer => {
                        let reason = "C can implement the worlds `function` and `command` only".into();
                        return Err(BuildError::Candidate(Outcome::Rejected { reason }));
                    }
                    World::Function => CProgram::Function,
                    World::Command => CProgram::Command,
                };
                let clang = Clang::recorded(&self.config.dirs).map_err(SandboxError::from)?;
                let parts = [kind, &wasi, clang.key.as_bytes(), jail::HEADER.as_bytes(), text.as_bytes()];
                let key = self.key(world, &parts);
                self.cached(&key, shape(Form::Module), start, |timing| {
                    let begin = Instant::now();
                    let (limits, exe) = (&self.config.compile, &self.config.exe);
                    let wasm = jailed(|| self.jails.compile_c(text, program, &clang, limits, exe))?;
                    timing.rustc_us = micros(begin.elapsed());
                    Ok(wasm)
                })
            }
            Source::Wat(_) | Source::Wasm(_) | Source::Component(_) => {
                let key = self.key(world, &[kind, &wasi, source.bytes()]);
                let form = match source {
                    Source::Wat(_) => Form::Text,
                    Source::Component(_) => Form::Component,
                    _ => Form::Module,
                };
                self.cached(&key, shape(form), start, |_| Ok(source.bytes().to_vec()))
            }
        }
    }

    fn key(&self, world: World, parts: &[&[u8]]) -> String {
        let mut hasher = blake3::Hasher::new();
        let module = serde_json::to_vec(&self.config.module).unwrap_or_default();
        let component = serde_json::to_vec(&self.config.component).unwrap_or_default();
        let identity = machine::identity();
        let fixed: [&[u8]; 5] =
            [identity.as_bytes(), encode::WIT.as_bytes(), &module, &component, world.name().as_bytes()];
        for part in fixed.iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().to_hex().to_string()
    }

    fn cached(
        &self,
        key: &str,
        shape: Shape,
        start: Instant,
        bytes: impl FnOnce(&mut BuildTiming) -> Result<Vec<u8>, BuildError>,
    ) -> Result<Component, BuildError> {
        let mut timing = BuildTiming::default();
        let (artifact, cached) = match self.cache.load(key) {
            Some(artifact) => (artifact, true),
            None => {
                let bytes = bytes(&mut timing)?;
                let begin = Instant::now();
                let artifact = self.generate(bytes, shape)?;
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
            world: shape.world,
            wasm_bytes: artifact.wasm_bytes,
            code_bytes: artifact.code.len() as u64,
            cached,
            timing,
            artifact: Arc::new(artifact),
        })
    }

    fn generate(&self, bytes: Vec<u8>, shape: Shape) -> Result<Artifact, BuildError> {
        let SandboxConfig { exe, module, component, codegen_deadline, isolation, .. } = &self.config;
        let Shape { world, form, wasi } = shape;
        let (module, component) = (module.clone(), component.clone());
        let build = machine::build().to_owned();
        let request = codegen::Request { build, world, form, wasi, module, component, bytes };
        for _ in 0..TRIES {
            match codegen::compile(&self.children, exe, &request, *codegen_deadline, *isolation) {
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

    /// Ends all processes that wait for work: workers, and what was started
    /// ahead for the next candidate.
    pub fn drain(&self) {
        self.pool.drain();
        self.children.drain();
        self.jails.drain();
    }

    /// Process ids of the workers that wait for work.
    pub fn idle_workers(&self) -> Vec<u32> {
        self.pool.idle()
    }
}

/// A compiler call, tried again where an outsider killed it.
fn jailed(call: impl Fn() -> Result<Compiled, CompileFailure>) -> Result<Vec<u8>, BuildError> {
    let mut result = call();
    for _ in 1..TRIES {
        if !matches!(result, Err(CompileFailure::Killed)) {
            break;
        }
        result = call();
    }
    result.map(|compiled| compiled.wasm).map_err(jail_error)
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
