//! The compiler that candidates are compiled with, and the SDK they are
//! compiled against.
//!
//! A [`Toolchain`] is a plain record of paths. [`find`] looks it up without
//! starting any process; [`install`] makes it, by the first of the
//! [`Route`]s that works, and is safe to interrupt and to run twice at once.
//!
//! In the cache folder ([`Dirs::cache`]):
//!
//! ```text
//! locks/setup.lock        held by the one set-up that is running
//! logs/<step>.log         output of the external commands
//! toolchain/compiler.json the compiler that was found (a `Compiler`)
//! toolchain/std-<key>/    a private sysroot, where rustup's was not to be had
//! toolchain/debian/       unpacked packages, where apt could not install them
//! toolchain/clang.json    the C compiler, where one was asked for (a `Clang`)
//! toolchain/clang/        its packages, where the path has none
//! toolchain/bin/wasm-ld   the linker under the name by which it knows its role
//! sdk/<key>/              the SDK and its dependencies as rlibs
//! work/                   build folders; may be deleted at any time
//! ```
//!
//! A key is the BLAKE3 of everything that the thing was made from.

mod clang;
mod compiler;
mod debian;
mod sdk;
pub mod store;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use clang::{Clang, install_c};
pub use compiler::Compiler;

/// The Rust name of the target that candidates are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Code generation features of candidates: what the sandbox's engine always has.
pub const TARGET_FEATURES: &str = "+simd128,+bulk-memory";

/// Where things are kept and where the SDK's source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Root of everything that can be made again.
    pub cache: PathBuf,
    /// Folder of the task templates, with the SDK's source in `sdk/`.
    pub templates: PathBuf,
}

impl Dirs {
    /// `$TERRARIUM_CACHE`, else `$XDG_CACHE_HOME/terrarium`, else
    /// `~/.cache/terrarium`; and `$TERRARIUM_TEMPLATES`, else the
    /// `guest-templates` of the source tree that this program was built from.
    pub fn from_env() -> Result<Self, ToolchainError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let cache = if let Some(path) = set("TERRARIUM_CACHE") {
            PathBuf::from(path)
        } else if let Some(path) = set("XDG_CACHE_HOME") {
            PathBuf::from(path).join("terrarium")
        } else if let Some(home) = set("HOME") {
            PathBuf::from(home).join(".cache").join("terrarium")
        } else {
            return Err(ToolchainError::NoCacheFolder);
        };
        let cache = std::path::absolute(&cache).map_err(|e| ToolchainError::io("resolve", &cache, e))?;
        let templates = match set("TERRARIUM_TEMPLATES") {
            Some(path) => PathBuf::from(path),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join("guest-templates"),
        };
        let templates = std::fs::canonicalize(&templates)
            .map_err(|e| ToolchainError::io("find the templates in", &templates, e))?;
        Ok(Self { cache, templates })
    }
}

/// One way to a compiler for [`TARGET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The `rustc` on the path has the target already.
    Installed,
    /// `rustup target add`.
    Rustup,
    /// The packages `rustc-web`, `rust-web-src` and `rust-web-llvm` as the
    /// system has them, or (as root) installed with apt; the standard library
    /// is built once.
    DebianSystem,
    /// The same packages, unpacked into the cache folder without any rights.
    DebianUnpacked,
}

/// All routes, in the order in which [`install`] tries them.
pub const ROUTES: &[Route] = &[Route::Installed, Route::Rustup, Route::DebianSystem, Route::DebianUnpacked];

/// Everything that the compile jail needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// The compiler and its library.
    pub compiler: Compiler,
    /// The SDK that candidates name as `terrarium_sdk`.
    pub sdk_rlib: PathBuf,
    /// The folder of the SDK's own dependencies.
    pub deps_dir: PathBuf,
    /// BLAKE3 of the SDK's source, the interface and the compiler's version.
    pub sdk_key: String,
}

/// Why there is no toolchain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolchainError {
    /// Neither of the variables that say where the cache is.
    #[error("no folder for the cache: none of TERRARIUM_CACHE, XDG_CACHE_HOME and HOME is set")]
    NoCacheFolder,
    /// Set-up has not run, or what it found has changed since.
    #[error("the WebAssembly compiler is not set up: {what}")]
    NotInstalled {
        /// What is missing or has changed.
        what: String,
    },
    /// No C compiler was set up; it is never fetched unasked.
    #[error("there is no C compiler for WebAssembly: {what}")]
    NoClang {
        /// What is missing, or what was tried.
        what: String,
    },
    /// The compiler is there, the SDK was not built from these sources.
    #[error("the SDK is not built for these sources (key {key})")]
    SdkStale {
        /// The key that was looked for.
        key: String,
    },
    /// No route led to a compiler.
    #[error("no compiler for {TARGET}: {}", tried.join("; "))]
    NoRoute {
        /// Each route and why it ended.
        tried: Vec<String>,
    },
    /// An external command failed.
    #[error("{step} failed: {detail}")]
    Step {
        /// What was being done.
        step: String,
        /// The last lines that the command said.
        detail: String,
        /// The whole output, where it was kept.
        log: Option<PathBuf>,
    },
    /// A file or folder.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl ToolchainError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// One thing to try.
    pub fn hint(&self) -> String {
        match self {
            Self::NoCacheFolder => "set TERRARIUM_CACHE to a folder that can be written".into(),
            Self::NotInstalled { .. } | Self::SdkStale { .. } => "run `terrarium setup`".into(),
            Self::NoClang { .. } => {
                "run `terrarium setup --c`, or name a clang with a WebAssembly target in CLANG (and its \
                 wasi-libc in WASI_SYSROOT)"
                    .into()
            }
            Self::NoRoute { .. } => format!(
                "run `rustup target add {TARGET}` where rustup can reach its server, or connect this \
                 machine to the servers of its packages; then `terrarium setup`"
            ),
            Self::Step { log: Some(log), .. } => {
                format!("read {}, then run `terrarium setup` again", log.display())
            }
            Self::Step { log: None, .. } => "run `terrarium setup` again".into(),
            Self::Io { .. } => {
                "check the rights and the free space of that folder, or set TERRARIUM_CACHE".into()
            }
        }
    }
}

/// Looks the toolchain up. Starts no process and changes nothing.
///
/// [`ToolchainError::NotInstalled`] and [`ToolchainError::SdkStale`] mean that
/// [`install`] (or, for the latter, [`ensure`]) is needed.
pub fn find(dirs: &Dirs) -> Result<Toolchain, ToolchainError> {
    let compiler = Compiler::recorded(dirs)?;
    sdk::find(dirs, compiler)
}

/// [`find`], and where only the SDK is stale, builds it again. Never installs
/// a compiler: that is [`install`]'s to do.
pub fn ensure(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Toolchain, ToolchainError> {
    match find(dirs) {
        Err(ToolchainError::SdkStale { .. }) => {
            let _lock = store::lock(dirs, "setup", progress)?;
            sdk::install(dirs, Compiler::recorded(dirs)?, progress)
        }
        found => found,
    }
}

/// Finds or makes the toolchain. `progress` gets one line for each step.
///
/// Safe to interrupt (each part is built aside and renamed when it is whole)
/// and to run twice at once (the second waits).
pub fn install(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Toolchain, ToolchainError> {
    install_by(dirs, ROUTES, progress)
}

/// [`install`], by these routes only.
pub fn install_by(
    dirs: &Dirs,
    routes: &[Route],
    progress: &mut dyn FnMut(&str),
) -> Result<Toolchain, ToolchainError> {
    let _lock = store::lock(dirs, "setup", progress)?;
    let compiler = match Compiler::recorded(dirs) {
        Ok(compiler) if routes.contains(&compiler.route()) => compiler,
        _ => {
            let compiler = compiler::acquire(dirs, routes, progress)?;
            compiler.record(dirs)?;
            compiler
        }
    };
    let toolchain = sdk::install(dirs, compiler, progress)?;
    progress(&format!("ready: {} with {TARGET}", toolchain.compiler.version));
    Ok(toolchain)
}

/// The arguments of the one compiler call that turns a candidate's source into
/// a core module. The call is meant to run in a folder of its own, in which
/// `input` and `output` are relative paths, so that the output depends on
/// nothing but the source, the compiler and the SDK.
pub fn guest_rustc_args(toolchain: &Toolchain, input: &Path, output: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = [
        "--crate-name=candidate",
        "--crate-type=cdylib",
        "--edition=2024",
        "--target",
        TARGET,
        "--error-format=json",
        "--cap-lints=warn",
        "-Copt-level=3",
        "-Cpanic=abort",
        "-Ccodegen-units=1",
        "-Cmetadata=candidate",
        "-Cstrip=symbols",
        "-Clinker-flavor=wasm-ld",
        // A stack that overflows traps at address 0 instead of running into data.
        "-Clink-arg=--stack-first",
    ]
    .map(OsString::from)
    .into();
    args.push(format!("-Ctarget-feature={TARGET_FEATURES}").into());
    let mut join = |name: &str, path: &Path| {
        let mut arg = OsString::from(name);
        arg.push(path);
        args.push(arg);
    };
    join("-Clinker=", &toolchain.compiler.linker);
    join("--sysroot=", &toolchain.compiler.sysroot);
    join("-Ldependency=", &toolchain.deps_dir);
    join("--extern=terrarium_sdk=", &toolchain.sdk_rlib);
    args.push("-o".into());
    args.push(output.into());
    args.push(input.into());
    args
}
