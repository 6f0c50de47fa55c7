//! The compile jail: one compiler call on untrusted source, in a process that
//! has given up everything that the call does not need.
//!
//! Compiling is executing: a source can make the compiler read any file
//! (`include_str!`), run for ever (constant evaluation), allocate without end
//! or crash. So [`compile`] starts a launcher (this same program, see
//! [`crate::child`]), which locks itself down and becomes `rustc` or `clang`:
//!
//! | layer | what it holds |
//! | --- | --- |
//! | one call, no cargo | build scripts and procedural macros do not exist |
//! | Landlock | reads the compiler, its libraries, the sysroot, the SDK and the source; executes the compiler and the linker; writes its own job folder |
//! | seccomp | an allow-list of calls: no sockets, no namespaces, no tracing; the rest fail with `EPERM` |
//! | rlimits | address space, data, processor time, file size, descriptors, no core |
//! | namespaces | no network, no IPC, no capability, no process but its own, and a root folder with nothing in it but what the call needs (where the kernel allows) |
//! | environment | none; stdin and stdout are null; stderr is drained and capped |
//! | deadline | the whole process group is killed; it dies with its parent too |
//!
//! [`CompileLimits::isolation`] says which of them must be there: without, the
//! compiler does not start. [`crate::probe`] says which are on.
//!
//! Not held here: whether the module that comes out is harmless. That is the
//! gate's to say.

mod clang;
mod confine;
mod diagnostics;
mod filter;
mod supervise;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ahead::Ahead;
use crate::isolation::Isolation;
use crate::namespaces::{self, Link};
pub use crate::outcome::Diagnostic;
use crate::outcome::{Outcome, Phase};
pub(crate) use clang::HEADER;
pub use clang::{CProgram, compile_c};
pub(crate) use confine::{child_main, probe_main};

use crate::toolchain::{Clang, Toolchain, guest_rustc_args};
use diagnostics::Reader;
use supervise::{Ended, Order, Waiting};

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
    /// How strongly the compiler must be held. **Below
    /// [`Level::Namespaces`](crate::Level::Namespaces) a source can read every
    /// file that this user can read.**
    pub isolation: Isolation,
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
            isolation: Isolation::default(),
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
                 `--require-isolation LEVEL` takes less, at your own risk"
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
/// the compiler can read. Nothing of it depends on the source.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    parent: u32,
    /// What a launcher's own message begins with. The compiler cannot read it,
    /// and so no source can have it say that the jail is broken. Empty, as the
    /// next field, in a plan that is for any job.
    token: String,
    /// The job's folder, which the compiler may read; it may write in
    /// [`WRITTEN`].
    job: PathBuf,
    compiler: PathBuf,
    args: Vec<std::ffi::OsString>,
    environment: Vec<(String, String)>,
    read: Vec<PathBuf>,
    execute: Vec<PathBuf>,
    /// Other names of what is read, where the compiler has a root of its own.
    links: Vec<Link>,
    cpu_seconds: u64,
    address_space: u64,
    data: u64,
    file_size: u64,
}

/// What of a job depends on the language: its files, its one compiler call and
/// how that compiler talks.
struct Call<'a> {
    /// The source's name in the job's folder.
    source: &'static str,
    /// The module's.
    module: &'static str,
    /// More files beside the source, written by us.
    files: &'a [(&'static str, &'static str)],
    /// Paths that say something about this machine, and what stands for them.
    hidden: Vec<(PathBuf, &'static str)>,
    /// Reads what the compiler said.
    read: fn(&Reader, &[u8]) -> diagnostics::Read,
}

const SOURCE: &str = "in/candidate.rs";
const MODULE: &str = "out/candidate.wasm";

/// Folders of a job that the compiler may write in.
const WRITTEN: [&str; 2] = ["out", "tmp"];

/// Compilers' jails. It has the next one put in place while the present one is
/// used, from the second call with the same compiler and limits on.
#[derive(Default)]
pub(crate) struct Jails {
    ahead: Ahead<Order, Result<Waiting, CompileFailure>>,
}

impl Jails {
    /// As [`compile`].
    pub(crate) fn compile(
        &self,
        source: &str,
        toolchain: &Toolchain,
        limits: &CompileLimits,
        launcher: &Path,
    ) -> Result<Compiled, CompileFailure> {
        let order = Order::new(plan(toolchain, limits), limits, launcher);
        run(source, &call(toolchain), order, limits, Some(self))
    }

    /// As [`compile_c`].
    pub(crate) fn compile_c(
        &self,
        source: &str,
        program: CProgram,
        clang: &Clang,
        limits: &CompileLimits,
        launcher: &Path,
    ) -> Result<Compiled, CompileFailure> {
        let order = Order::new(clang::plan(program, clang, limits), limits, launcher);
        run(source, &clang::call(clang), order, limits, Some(self))
    }

    /// Ends what waits.
    pub(crate) fn drain(&self) {
        self.ahead.drain();
    }

    fn next(&self, order: &Order) -> Result<Waiting, CompileFailure> {
        let mut waiting = self.ahead.take(order).and_then(Result::ok);
        waiting.take_if(|waiting| waiting.is_alive()).map_or_else(|| order.start(), Ok)
    }

    fn prepare(&self, order: Order) {
        self.ahead.prepare(&order.clone(), move || order.start());
    }
}

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
    let order = Order::new(plan(toolchain, limits), limits, launcher);
    run(source, &call(toolchain), order, limits, None)
}

fn call(toolchain: &Toolchain) -> Call<'static> {
    let compiler = &toolchain.compiler;
    Call {
        source: SOURCE,
        module: MODULE,
        files: &[],
        hidden: vec![
            (compiler.sysroot.clone(), "<sysroot>"),
            (toolchain.sdk_rlib.parent().unwrap_or(&toolchain.sdk_rlib).to_owned(), "<sdk>"),
            (compiler.linker.clone(), "<linker>"),
        ],
        read: Reader::read,
    }
}

/// One job: its folder, its process, its verdict.
fn run(
    source: &str,
    call: &Call<'_>,
    order: Order,
    limits: &CompileLimits,
    jails: Option<&Jails>,
) -> Result<Compiled, CompileFailure> {
    if source.len() > limits.source_bytes {
        return Err(CompileFailure::SourceTooLarge { bytes: source.len(), limit: limits.source_bytes });
    }
    let started = Instant::now();
    let waiting = jails.map_or_else(|| order.start(), |jails| jails.next(&order))?;
    let root = waiting.root().to_owned();
    for (name, text) in call.files.iter().copied().chain([(call.source, source)]) {
        fs::write(root.join(name), text).map_err(|e| CompileFailure::io("write the source", e))?;
    }
    let running = waiting.go();
    if let Some(jails) = jails {
        jails.prepare(order);
    }
    let (job, ended) = running.watch(started + limits.wall, limits.stderr_bytes)?;
    let reader = Reader::new(&root, call.source, &call.hidden);
    let read = (call.read)(&reader, &ended.stderr);
    judge(&ended, &read, limits)?;
    let wasm = take(&root.join(call.module), limits.file_size)?;
    job.close().map_err(|e| CompileFailure::io("remove the job's folder", e))?;
    Ok(Compiled { wasm, warnings: read.diagnostics, elapsed: started.elapsed() })
}

/// How a program in the jail ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramEnd {
    /// Its exit code, if it ended by itself.
    pub exit: Option<i32>,
    /// The signal that ended it otherwise.
    pub signal: Option<i32>,
    /// What it, or the launcher, wrote to standard error.
    pub said: String,
}

/// Runs any program in the jail instead of the compiler: for tests that attack
/// the jail from inside. `read` holds the program's libraries. It starts in a
/// folder of its own, in which it may write to `out` and `tmp`.
///
/// # Errors
/// This machine does not reach `limits.isolation`, or a file or a process of
/// our own is in trouble.
pub fn run_program(
    program: &Path,
    args: &[std::ffi::OsString],
    read: &[PathBuf],
    limits: &CompileLimits,
    launcher: &Path,
) -> Result<ProgramEnd, CompileFailure> {
    let deadline = Instant::now() + limits.wall;
    let links = namespaces::other_names(read).to_vec();
    let mut readable = read.to_vec();
    readable.extend([PathBuf::from("/etc/ld.so.cache"), program.to_owned()]);
    // The loader is a library that is executed.
    let loader = |path: &&PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-"));
    let mut execute: Vec<PathBuf> = read.iter().filter(loader).cloned().collect();
    execute.push(program.to_owned());
    let plan = Plan {
        parent: std::process::id(),
        token: String::new(),
        job: PathBuf::new(),
        compiler: program.to_owned(),
        args: args.to_vec(),
        environment: Vec::new(),
        read: readable,
        execute,
        links,
        cpu_seconds: limits.cpu_seconds,
        address_space: limits.address_space,
        data: limits.data,
        file_size: limits.file_size,
    };
    let waiting = Order::new(plan, limits, launcher).start()?;
    let (_job, ended) = waiting.go().watch(deadline, limits.stderr_bytes)?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    if ended.exit == Some(crate::child::EXIT_FAILED)
        && let Some(text) = reason_of(&ended.stderr, &ended.token)
    {
        return Err(match text.strip_prefix(confine::UNAVAILABLE) {
            Some(feature) => CompileFailure::Unavailable { feature: feature.to_owned() },
            None => CompileFailure::io("start the jail", std::io::Error::other(text)),
        });
    }
    Ok(ProgramEnd { exit: ended.exit, signal: ended.signal, said })
}

fn plan(toolchain: &Toolchain, limits: &CompileLimits) -> Plan {
    let compiler = &toolchain.compiler;
    let mut read = compiler.libraries.clone();
    read.extend([
        compiler.rustc.clone(),
        compiler.linker.clone(),
        compiler.target_library(),
        toolchain.sdk_rlib.clone(),
        toolchain.deps_dir.clone(),
    ]);
    let mut execute = compiler.interpreter.clone();
    execute.extend([compiler.rustc.clone(), compiler.linker.clone()]);
    let mut plan = Plan::new(&compiler.rustc, &compiler.library_path, read, execute, limits);
    plan.args = guest_rustc_args(toolchain, Path::new(SOURCE), Path::new(MODULE));
    plan.environment.extend([
        // No report files of internal compiler errors.
        ("RUSTC_ICE".to_owned(), "0".to_owned()),
        ("RUST_BACKTRACE".to_owned(), "0".to_owned()),
    ]);
    plan
}

impl Plan {
    /// The job's folder, if there is one.
    fn job(&self) -> Option<&PathBuf> {
        Some(&self.job).filter(|job| !job.as_os_str().is_empty())
    }

    /// What may be written.
    fn written(&self) -> Vec<PathBuf> {
        self.job().map_or_else(Vec::new, |job| WRITTEN.map(|folder| job.join(folder)).into())
    }

    /// What every compiler gets: its own files, the job's, and no more.
    fn new(
        compiler: &Path,
        library_path: &[PathBuf],
        mut read: Vec<PathBuf>,
        execute: Vec<PathBuf>,
        limits: &CompileLimits,
    ) -> Self {
        let mut environment = vec![
            // Relative, so that no random path can find its way into the module.
            ("TMPDIR".to_owned(), "tmp".to_owned()),
            ("LC_ALL".to_owned(), "C".to_owned()),
        ];
        if let Ok(joined) = std::env::join_paths(library_path)
            && let Ok(joined) = joined.into_string()
            && !joined.is_empty()
        {
            environment.push(("LD_LIBRARY_PATH".to_owned(), joined));
        }
        let links = namespaces::other_names(&read).to_vec();
        read.extend([
            PathBuf::from("/etc/ld.so.cache"),
            // One number and one word about the kernel, for the compiler's
            // allocator: without them it gives memory back page by page.
            PathBuf::from("/proc/sys/vm/overcommit_memory"),
            PathBuf::from("/sys/kernel/mm/transparent_hugepage/enabled"),
        ]);
        Self {
            parent: std::process::id(),
            token: String::new(),
            job: PathBuf::new(),
            compiler: compiler.to_owned(),
            args: Vec::new(),
            environment,
            read,
            execute,
            links,
            cpu_seconds: limits.cpu_seconds,
            address_space: limits.address_space,
            data: limits.data,
            file_size: limits.file_size,
        }
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
    // A compiler's own exit status may be the same (clang's is, when it crashes),
    // and so may its words.
    if ended.exit == Some(crate::child::EXIT_FAILED)
        && let Some(text) = reason_of(&ended.stderr, &ended.token)
    {
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
        // The first process of a namespace is spared the signal, not the error.
        _ if linker_died_of(libc::SIGXFSZ)
            || read.file_too_large
            || read.other.contains("File too large") =>
        {
            Err(too_large)
        }
        _ if linker_died_of(libc::SIGKILL) => Err(CompileFailure::Killed),
        _ if read.out_of_memory => Err(memory),
        (Some(1), _) if !read.diagnostics.is_empty() => {
            Err(CompileFailure::Diagnostics(read.diagnostics.clone()))
        }
        (_, signal) => Err(CompileFailure::Crashed { signal, detail: read.other.clone() }),
    }
}

/// What a launcher said that could not become the compiler, without the words
/// that [`crate::child::run_if_child`] puts before it, and without its token.
fn reason_of(stderr: &[u8], token: &str) -> Option<String> {
    let said = String::from_utf8_lossy(stderr);
    let (_, reason) = said.split_once(&format!("{LAUNCHER_SAYS}{token} "))?;
    Some(reason.trim().to_owned())
}

/// 128 bits that nobody can guess: hashes under keys that the standard library
/// draws from the system.
fn fresh_token() -> String {
    use std::hash::{BuildHasher, RandomState};
    let draw = || RandomState::new().hash_one(Instant::now());
    format!("{:016x}{:016x}", draw(), draw())
}

/// The module that a compiler left: a plain file of at most `most` bytes, and
/// no link, pipe or device instead of it.
fn take(path: &Path, most: u64) -> Result<Vec<u8>, CompileFailure> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let missing = |detail: String| CompileFailure::Crashed { signal: None, detail };
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| missing(format!("it left no module: {e}")))?;
    let data = file.metadata().map_err(|e| CompileFailure::io("read the module", e))?;
    if !data.is_file() {
        return Err(missing("it left no plain file as its module".into()));
    }
    let mut wasm = Vec::new();
    let read = file.take(most.saturating_add(1)).read_to_end(&mut wasm);
    read.map_err(|e| CompileFailure::io("read the module", e))?;
    if wasm.len() as u64 > most {
        return Err(CompileFailure::OutputTooLarge { limit: most });
    }
    Ok(wasm)
}

const LAUNCHER_SAYS: &str = "terrarium child \"jail\": ";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_token_speaks_for_the_launcher() {
        let token = fresh_token();
        assert_ne!(token, fresh_token());
        let said = format!("{LAUNCHER_SAYS}{token} unavailable: seccomp\n");
        assert_eq!(reason_of(said.as_bytes(), &token).as_deref(), Some("unavailable: seccomp"));
        for forged in
            [LAUNCHER_SAYS.to_owned(), format!("{LAUNCHER_SAYS}unavailable: seccomp"), token.clone()]
        {
            assert_eq!(reason_of(forged.as_bytes(), &token), None, "{forged}");
        }
    }

    #[test]
    fn a_module_is_a_plain_file_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("module"), b"\0asm").unwrap();
        assert_eq!(take(&at("module"), 4).unwrap(), b"\0asm");
        assert!(matches!(take(&at("module"), 3), Err(CompileFailure::OutputTooLarge { limit: 3 })));
        // As a compiler that was taken over might leave it.
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let pipe = std::ffi::CString::new(at("pipe").to_str().unwrap()).unwrap();
        // SAFETY: the pointer is to a C string that lives.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        fs::create_dir(at("folder")).unwrap();
        let sparse = fs::File::create(at("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        for name in ["link", "socket", "pipe", "folder", "nothing"] {
            assert!(matches!(take(&at(name), 100), Err(CompileFailure::Crashed { .. })), "{name}");
        }
        assert!(matches!(take(&at("sparse"), 100), Err(CompileFailure::OutputTooLarge { .. })));
    }
}
