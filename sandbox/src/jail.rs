//! The compile jail: one compiler call on untrusted source, in a process that
//! has given up everything that the call does not need.
//!
//! Compiling is executing: a source can make the compiler read any file
//! (`include_str!`), run for ever (constant evaluation), allocate without end
//! or crash. So [`compile`] starts a launcher (this same program, see
//! [`crate::child`]), which locks itself down and becomes `rustc`:
//!
//! | layer | what it holds |
//! | --- | --- |
//! | one call, no cargo | build scripts and procedural macros do not exist |
//! | Landlock | reads the compiler, its libraries, the sysroot, the SDK and the source; executes the compiler and the linker; writes its own job folder |
//! | seccomp | an allow-list of calls: no sockets, no namespaces, no tracing; the rest fail with `EPERM` |
//! | rlimits | address space, data, processor time, file size, descriptors, no core |
//! | namespaces | no network, no IPC, no rights of root (where the kernel allows) |
//! | environment | none; stdin and stdout are null; stderr is drained and capped |
//! | deadline | the whole process group is killed; it dies with its parent too |
//!
//! The first two are required: without them [`compile`] refuses, unless
//! [`CompileLimits::allow_unjailed`] is set. The others are set wherever they
//! exist. [`probe`] says which are on.
//!
//! Not held here: whether the module that comes out is harmless. That is the
//! gate's to say.

mod confine;
mod diagnostics;
mod probe;
mod supervise;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use crate::outcome::Diagnostic;
use crate::outcome::{Outcome, Phase};
pub use confine::child_main;
pub use probe::{LayerState, LayerStatus, probe};

use crate::toolchain::{Toolchain, guest_rustc_args};
use diagnostics::Reader;
use supervise::{Ended, Supervisor};

/// What one compiler call may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Wall clock, from the start to the end of the call.
    pub wall: Duration,
    /// Processor time of the compiler, and again of the linker, in seconds.
    pub cpu_seconds: u64,
    /// Address space of each process, in bytes.
    pub address_space: u64,
    /// Heap and private mappings of each process, in bytes.
    pub data: u64,
    /// Largest file that may be written, in bytes; so also the largest module.
    pub file_size: u64,
    /// What is kept of the compiler's output, in bytes. The rest is discarded.
    pub stderr_bytes: usize,
    /// Longest source, in bytes.
    pub source_bytes: usize,
    /// **Dangerous.** Compile even where Landlock or seccomp is missing: the
    /// source can then read every file that this user can read.
    pub allow_unjailed: bool,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(15),
            cpu_seconds: 10,
            address_space: 3 << 30,
            data: 3 << 29,
            file_size: 64 << 20,
            stderr_bytes: 1 << 20,
            source_bytes: 256 << 10,
            allow_unjailed: false,
        }
    }
}

/// A candidate that compiled.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The core module, as the compiler wrote it. Not yet checked by the gate.
    pub wasm: Vec<u8>,
    /// What the compiler warned of.
    pub warnings: Vec<Diagnostic>,
    /// Wall clock of the whole call.
    pub elapsed: Duration,
}

/// Which clock ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// [`CompileLimits::wall`].
    Wall,
    /// [`CompileLimits::cpu_seconds`].
    Cpu,
}

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileFailure {
    /// The source is longer than [`CompileLimits::source_bytes`].
    #[error("the source has {bytes} bytes; the limit is {limit}")]
    SourceTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The compiler refused the source.
    #[error("the compiler refused the source ({} messages)", .0.len())]
    Diagnostics(Vec<Diagnostic>),
    /// Time ran out, and the compiler was killed.
    #[error("compiling took longer than {limit:?} ({clock:?})")]
    Deadline {
        /// Which clock.
        clock: Clock,
        /// Its limit.
        limit: Duration,
    },
    /// The compiler ran into its memory limit.
    #[error("the compiler ran out of its memory ({limit} bytes)")]
    MemoryLimit {
        /// The address-space limit, in bytes.
        limit: u64,
    },
    /// The compiler itself failed on this source.
    #[error("the compiler crashed (signal {signal:?}): {detail}")]
    Crashed {
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// The last that it said, cleaned.
        detail: String,
    },
    /// A file grew past [`CompileLimits::file_size`].
    #[error("the module is larger than {limit} bytes")]
    OutputTooLarge {
        /// The limit.
        limit: u64,
    },
    /// Killed by somebody else (the kernel's memory killer, an operator). The
    /// candidate is not to blame: try again.
    #[error("the compiler was killed from outside")]
    Killed,
    /// This machine lacks a layer of the jail.
    #[error("this machine cannot isolate the compiler: {feature}")]
    Unavailable {
        /// What is missing.
        feature: String,
    },
    /// A file, a folder or a process of our own.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl CompileFailure {
    fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// The failure as the outcome of an evaluation, where the candidate is to
    /// blame; where the host is, what went wrong and one thing to try.
    pub fn into_outcome(self) -> Result<Outcome, (String, String)> {
        let refused = |reason: String| Ok(Outcome::Rejected { reason });
        let error = |message: String| Diagnostic {
            level: "error".into(),
            code: None,
            rendered: message.clone(),
            message,
            line: 0,
            column: 0,
        };
        let text = self.to_string();
        match self {
            Self::SourceTooLarge { .. } => refused(text),
            Self::OutputTooLarge { .. } => refused(text),
            Self::Diagnostics(diagnostics) => Ok(Outcome::CompileError { diagnostics }),
            Self::MemoryLimit { .. } | Self::Crashed { .. } => {
                Ok(Outcome::CompileError { diagnostics: vec![error(text)] })
            }
            Self::Deadline { .. } => Ok(Outcome::Deadline { phase: Phase::Compile }),
            Self::Killed => Ok(Outcome::WorkerDied { signal: libc::SIGKILL, phase: Phase::Compile }),
            Self::Unavailable { .. } => Err((
                text,
                "`terrarium doctor` shows which layers this machine has; \
                 `--allow-unjailed` compiles without them, at your own risk"
                    .into(),
            )),
            Self::Io { .. } => {
                Err((text, "check the rights and the free space of the folder for temporary files".into()))
            }
        }
    }

    /// Whether the same source may well compile at the next try.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Killed)
    }
}

/// What a launcher is told: written to a file beside the job, outside of what
/// the compiler can read.
#[derive(Serialize, Deserialize)]
struct Plan {
    parent: u32,
    job: PathBuf,
    rustc: PathBuf,
    args: Vec<std::ffi::OsString>,
    environment: Vec<(String, String)>,
    read: Vec<PathBuf>,
    execute: Vec<PathBuf>,
    write: Vec<PathBuf>,
    cpu_seconds: u64,
    address_space: u64,
    data: u64,
    file_size: u64,
    allow_unjailed: bool,
}

const SOURCE: &str = "in/candidate.rs";
const MODULE: &str = "out/candidate.wasm";

/// Compiles one source, blocking until it is done or its deadline has passed.
///
/// `launcher` is a program whose `main` starts with
/// [`run_if_child`](crate::child::run_if_child): usually
/// [`std::env::current_exe`]. The job's folder is gone when this returns, and so
/// is every process.
pub fn compile(
    source: &str,
    toolchain: &Toolchain,
    limits: &CompileLimits,
    launcher: &Path,
) -> Result<Compiled, CompileFailure> {
    if source.len() > limits.source_bytes {
        return Err(CompileFailure::SourceTooLarge { bytes: source.len(), limit: limits.source_bytes });
    }
    let started = Instant::now();
    let job = new_job()?;
    // The compiler's view is the `job` folder; the plan lies beside it.
    let root = job.path().join("job");
    for folder in ["in", "out", "tmp"] {
        let path = root.join(folder);
        fs::create_dir_all(&path).map_err(|e| CompileFailure::io(format!("create {}", path.display()), e))?;
    }
    fs::write(root.join(SOURCE), source).map_err(|e| CompileFailure::io("write the source", e))?;
    let plan_path = job.path().join("plan.json");
    let plan = serde_json::to_vec(&plan(&root, toolchain, limits))
        .map_err(|e| CompileFailure::io("write the plan", std::io::Error::other(e)))?;
    fs::write(&plan_path, plan).map_err(|e| CompileFailure::io("write the plan", e))?;

    let supervisor =
        Supervisor { launcher, plan: &plan_path, deadline: started + limits.wall, keep: limits.stderr_bytes };
    let ended = supervisor.run()?;
    let reader = Reader::new(&root, toolchain);
    let read = reader.read(&ended.stderr);
    judge(&ended, &read, limits)?;
    let module = root.join(MODULE);
    let size = fs::metadata(&module).map_err(|e| CompileFailure::io("find the module", e))?.len();
    if size > limits.file_size {
        return Err(CompileFailure::OutputTooLarge { limit: limits.file_size });
    }
    let wasm = fs::read(&module).map_err(|e| CompileFailure::io("read the module", e))?;
    job.close().map_err(|e| CompileFailure::io("remove the job's folder", e))?;
    Ok(Compiled { wasm, warnings: read.diagnostics, elapsed: started.elapsed() })
}

fn plan(root: &Path, toolchain: &Toolchain, limits: &CompileLimits) -> Plan {
    let compiler = &toolchain.compiler;
    let mut environment = vec![
        // Relative, so that no random path can find its way into the module.
        ("TMPDIR".to_owned(), "tmp".to_owned()),
        // No report files of internal compiler errors.
        ("RUSTC_ICE".to_owned(), "0".to_owned()),
        ("RUST_BACKTRACE".to_owned(), "0".to_owned()),
        ("LC_ALL".to_owned(), "C".to_owned()),
    ];
    if let Ok(joined) = std::env::join_paths(&compiler.library_path)
        && let Ok(joined) = joined.into_string()
        && !joined.is_empty()
    {
        environment.push(("LD_LIBRARY_PATH".to_owned(), joined));
    }
    let mut read = compiler.libraries.clone();
    read.extend([
        PathBuf::from("/etc/ld.so.cache"),
        // One number and one word about the kernel, for the compiler's
        // allocator: without them it gives memory back page by page.
        PathBuf::from("/proc/sys/vm/overcommit_memory"),
        PathBuf::from("/sys/kernel/mm/transparent_hugepage/enabled"),
        compiler.rustc.clone(),
        compiler.linker.clone(),
        compiler.target_library(),
        toolchain.sdk_rlib.clone(),
        toolchain.deps_dir.clone(),
        root.to_owned(),
    ]);
    let mut execute = compiler.interpreter.clone();
    execute.extend([compiler.rustc.clone(), compiler.linker.clone()]);
    Plan {
        parent: std::process::id(),
        job: root.to_owned(),
        rustc: compiler.rustc.clone(),
        args: guest_rustc_args(toolchain, Path::new(SOURCE), Path::new(MODULE)),
        environment,
        read,
        execute,
        write: vec![root.join("out"), root.join("tmp")],
        cpu_seconds: limits.cpu_seconds,
        address_space: limits.address_space,
        data: limits.data,
        file_size: limits.file_size,
        allow_unjailed: limits.allow_unjailed,
    }
}

/// Turns the end of the process, and what it said, into one verdict.
fn judge(ended: &Ended, read: &diagnostics::Read, limits: &CompileLimits) -> Result<(), CompileFailure> {
    let cpu = CompileFailure::Deadline { clock: Clock::Cpu, limit: Duration::from_secs(limits.cpu_seconds) };
    let too_large = CompileFailure::OutputTooLarge { limit: limits.file_size };
    let memory = CompileFailure::MemoryLimit { limit: limits.address_space };
    if ended.killed_by_us {
        return Err(CompileFailure::Deadline { clock: Clock::Wall, limit: limits.wall });
    }
    if ended.exit == Some(crate::child::EXIT_FAILED) {
        let text = reason_of(&read.other);
        return Err(match text.strip_prefix(confine::UNAVAILABLE) {
            Some(feature) => CompileFailure::Unavailable { feature: feature.to_owned() },
            None => CompileFailure::io("start the jail", std::io::Error::other(text)),
        });
    }
    let linker_died_of = |signal: i32| read.linker_signal == Some(signal);
    match (ended.exit, ended.signal) {
        (Some(0), _) => Ok(()),
        (_, Some(libc::SIGXCPU)) => Err(cpu),
        (_, Some(libc::SIGXFSZ)) => Err(too_large),
        (_, Some(libc::SIGKILL)) if ended.cpu >= Duration::from_secs(limits.cpu_seconds) => Err(cpu),
        (_, Some(libc::SIGKILL)) => Err(CompileFailure::Killed),
        _ if linker_died_of(libc::SIGXCPU) => Err(cpu),
        _ if linker_died_of(libc::SIGXFSZ) || read.file_too_large => Err(too_large),
        _ if linker_died_of(libc::SIGKILL) => Err(CompileFailure::Killed),
        _ if read.out_of_memory => Err(memory),
        (Some(1), _) if !read.diagnostics.is_empty() => {
            Err(CompileFailure::Diagnostics(read.diagnostics.clone()))
        }
        (_, signal) => Err(CompileFailure::Crashed { signal, detail: read.other.clone() }),
    }
}

/// What a launcher said that could not become the compiler, without the words
/// that [`crate::child::run_if_child`] puts before it.
fn reason_of(stderr: &str) -> String {
    stderr.trim().trim_start_matches("terrarium child \"jail\": ").to_owned()
}

const JOB_PREFIX: &str = "terrarium-job-";

/// A folder that only this user can enter, removed when it is dropped.
fn new_job() -> Result<tempfile::TempDir, CompileFailure> {
    static SWEEP: Once = Once::new();
    let parent = std::env::temp_dir();
    SWEEP.call_once(|| sweep(&parent));
    let parent =
        fs::canonicalize(&parent).map_err(|e| CompileFailure::io(format!("find {}", parent.display()), e))?;
    tempfile::Builder::new()
        .prefix(&format!("{JOB_PREFIX}{}-", std::process::id()))
        .tempdir_in(&parent)
        .map_err(|e| CompileFailure::io(format!("create a folder in {}", parent.display()), e))
}

/// Removes the job folders of processes that were killed before they could:
/// those whose process is gone and that are older than any job can be.
fn sweep(parent: &Path) {
    const OLD: Duration = Duration::from_secs(3600);
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .and_then(|name| name.strip_prefix(JOB_PREFIX))
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        let old = entry
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > OLD));
        if old && !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
