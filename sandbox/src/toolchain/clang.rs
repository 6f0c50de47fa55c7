//! The C compiler, for those who asked for one.
//!
//! Found, in this order: the program that `CLANG` names, `clang` on the path
//! (either with a WebAssembly target), packages unpacked into the cache.
//! wasi-libc is found beside it, in `WASI_SYSROOT` or in `/usr`; without one,
//! C guests are freestanding.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compiler::{self, with_libraries};
use super::debian::{self, Packages};
use super::{Dirs, ToolchainError, store};

/// A clang that compiles for WebAssembly, with its linker and its libc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clang {
    /// The real program.
    pub program: PathBuf,
    /// First line of `clang --version`.
    pub version: String,
    /// BLAKE3 of the version, the linker's and the files of wasi-libc.
    pub key: String,
    /// The linker by the name `wasm-ld`, by which it knows what it is.
    pub linker: PathBuf,
    /// The program that this name leads to.
    pub linker_program: PathBuf,
    /// clang's own headers and runtime library.
    pub resource_dir: PathBuf,
    /// Holds `include/wasm32-wasi` and `lib/wasm32-wasi`, if there is a libc.
    pub sysroot: Option<PathBuf>,
    /// `LD_LIBRARY_PATH` that it needs; empty where it needs none.
    pub library_path: Vec<PathBuf>,
    /// Every shared library that the compiler and the linker load.
    pub libraries: Vec<PathBuf>,
    /// The program interpreter.
    pub interpreter: Vec<PathBuf>,
    /// Length and time of change of the program when it was recorded.
    fingerprint: (u64, u64),
}

/// The packages: clang itself, its headers, the runtime library and the libc.
/// Of what clang depends on, only its libraries are needed, for it is neither
/// to link nor to run anything for this machine.
const PACKAGES: Packages = Packages {
    planned: &["libclang-cpp19", "libllvm19"],
    named: &[
        "clang-19",
        "libclang-common-19-dev",
        "libclang-cpp19",
        "libllvm19",
        "libclang-rt-19-dev-wasm32",
        "wasi-libc",
    ],
    complete: |root| root.join(UNPACKED).is_file() && has_libc(&root.join("usr")),
};
const UNPACKED: &str = "usr/lib/llvm-19/bin/clang";

impl Clang {
    /// The one that [`install_c`] recorded. Starts no process.
    pub fn recorded(dirs: &Dirs) -> Result<Self, ToolchainError> {
        let missing = |what: String| ToolchainError::NoClang { what };
        let path = record_path(dirs);
        let bytes = fs::read(&path).map_err(|_| missing("none was set up".into()))?;
        let clang: Self = serde_json::from_slice(&bytes)
            .map_err(|e| missing(format!("{} is not a record of this version ({e})", path.display())))?;
        if compiler::fingerprint(&clang.program) != Some(clang.fingerprint) {
            return Err(missing(format!("{} has changed or gone", clang.program.display())));
        }
        let mut parts = clang.libraries.iter().chain([&clang.linker, &clang.resource_dir]);
        match parts.find(|part| !part.exists()).cloned() {
            Some(gone) => Err(missing(format!("{} has gone", gone.display()))),
            None => Ok(clang.clone()),
        }
    }

    fn inspect(dirs: &Dirs, program: &Path, library_path: Vec<PathBuf>) -> Result<Self, ToolchainError> {
        let program = fs::canonicalize(program).map_err(|e| ToolchainError::io("find", program, e))?;
        let ask = |argument: &str| store::query(with_libraries(&program, &library_path).arg(argument));
        let targets = ask("--print-targets")?;
        if !targets.lines().any(|line| line.trim_start().starts_with("wasm32 ")) {
            return Err(ToolchainError::NoClang {
                what: format!("{} has no WebAssembly target", program.display()),
            });
        }
        let version = ask("--version")?.lines().next().unwrap_or_default().to_owned();
        let resource_dir = PathBuf::from(ask("-print-resource-dir")?);
        let resource_dir =
            fs::canonicalize(&resource_dir).map_err(|e| ToolchainError::io("find", &resource_dir, e))?;
        let (linker, linker_program) = linker(dirs, &program)?;
        let (mut libraries, mut interpreter) = (Vec::new(), Vec::new());
        for part in [&program, &linker_program] {
            compiler::shared_libraries(part, &library_path, &mut libraries, &mut interpreter)?;
        }
        for list in [&mut libraries, &mut interpreter] {
            list.sort();
            list.dedup();
        }
        let sysroot = sysroot(&program, &resource_dir);
        let mut hasher = blake3::Hasher::new();
        store::hash_part(&mut hasher, version.as_bytes());
        store::hash_part(
            &mut hasher,
            store::query(with_libraries(&linker, &[]).arg("--version"))?.as_bytes(),
        );
        if let Some(sysroot) = &sysroot {
            for folder in ["include/wasm32-wasi", "lib/wasm32-wasi"] {
                store::hash_tree(&mut hasher, &sysroot.join(folder))?;
            }
        }
        Ok(Self {
            key: hasher.finalize().to_hex()[..16].to_owned(),
            fingerprint: compiler::fingerprint(&program).unwrap_or_default(),
            program,
            version,
            linker,
            linker_program,
            resource_dir,
            sysroot,
            library_path,
            libraries,
            interpreter,
        })
    }
}

/// Finds a C compiler, or fetches one (about 50 MB, unpacked 220 MB), and
/// records it. Only for those who ask: nothing else needs it.
pub fn install_c(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Clang, ToolchainError> {
    let _lock = store::lock(dirs, "setup", progress)?;
    let named = std::env::var_os("CLANG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let wanted = named.as_ref().and_then(|program| fs::canonicalize(program).ok());
    if let Ok(clang) = Clang::recorded(dirs)
        && wanted.is_none_or(|wanted| wanted == clang.program)
    {
        return Ok(clang);
    }
    let mut tried = Vec::new();
    for program in named.into_iter().chain(store::on_path("clang")) {
        match Clang::inspect(dirs, &program, Vec::new()) {
            Ok(clang) => return recorded(dirs, clang, progress),
            Err(error) => tried.push(format!("{}: {error}", program.display())),
        }
    }
    match unpacked(dirs, progress) {
        Ok(clang) => recorded(dirs, clang, progress),
        Err(error) => {
            tried.push(error.to_string());
            Err(ToolchainError::NoClang { what: tried.join("; ") })
        }
    }
}

fn recorded(dirs: &Dirs, clang: Clang, progress: &mut dyn FnMut(&str)) -> Result<Clang, ToolchainError> {
    let text = serde_json::to_vec_pretty(&clang).map_err(|e| ToolchainError::Step {
        step: "recording the C compiler".into(),
        detail: e.to_string(),
        log: None,
    })?;
    store::write_atomically(&record_path(dirs), &text)?;
    let libc = if clang.sysroot.is_some() { "with wasi-libc" } else { "without a libc" };
    progress(&format!("ready: {} {libc}", clang.version));
    Ok(clang)
}

fn unpacked(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Clang, ToolchainError> {
    let root = dirs.cache.join("toolchain").join("clang");
    if !(PACKAGES.complete)(&root) {
        debian::unpack(dirs, &root, &PACKAGES, progress)?;
    }
    let library_path = debian::library_path(&root, "usr/lib/llvm-19/lib");
    Clang::inspect(dirs, &root.join(UNPACKED), library_path)
}

fn record_path(dirs: &Dirs) -> PathBuf {
    dirs.cache.join("toolchain").join("clang.json")
}

/// The linker that Rust guests use is LLVM's, which goes by its name: so it
/// gets a second one. Returns the name and the program.
fn linker(dirs: &Dirs, clang: &Path) -> Result<(PathBuf, PathBuf), ToolchainError> {
    let beside = clang.with_file_name("wasm-ld");
    let found = if beside.is_file() {
        beside
    } else {
        let rustc = store::on_path("rustc").unwrap_or_default();
        compiler::linker(&rustc, "x86_64-unknown-linux-gnu")?
    };
    let program = fs::canonicalize(&found).map_err(|e| ToolchainError::io("find", &found, e))?;
    let name = dirs.cache.join("toolchain").join("bin").join("wasm-ld");
    if let Some(folder) = name.parent() {
        store::make_dir(folder)?;
    }
    if fs::read_link(&name).ok().as_deref() != Some(&program) {
        let _ = fs::remove_file(&name);
        std::os::unix::fs::symlink(&program, &name).map_err(|e| ToolchainError::io("link", &name, e))?;
    }
    Ok((name, program))
}

fn has_libc(sysroot: &Path) -> bool {
    sysroot.join("include/wasm32-wasi/stdio.h").is_file() && sysroot.join("lib/wasm32-wasi/libc.a").is_file()
}

/// wasi-libc, if its runtime library is there too: beside an unpacked clang,
/// in wasi-sdk's place, or the distribution's.
fn sysroot(program: &Path, resource_dir: &Path) -> Option<PathBuf> {
    let runtime = ["wasi", "wasm32-unknown-wasi", "wasm32-wasi"]
        .iter()
        .any(|name| resource_dir.join("lib").join(name).is_dir());
    if !runtime {
        return None;
    }
    let set = std::env::var_os("WASI_SYSROOT").filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut places: Vec<PathBuf> = set.into_iter().collect();
    // …/usr/lib/llvm-19/bin/clang and wasi-sdk's bin/clang.
    places.extend(program.ancestors().nth(4).map(Path::to_owned));
    places.extend(program.ancestors().nth(2).map(|root| root.join("share").join("wasi-sysroot")));
    places.push("/usr".into());
    places.into_iter().find(|place| has_libc(place)).and_then(|place| fs::canonicalize(place).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_set_up_the_hint_names_the_command() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dirs = Dirs { cache: folder.path().into(), templates: folder.path().into() };
        let error = Clang::recorded(&dirs).expect_err("nothing recorded");
        assert!(error.hint().contains("setup --c"), "{}", error.hint());
    }

    #[test]
    fn a_libc_is_found_where_its_runtime_is_there_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = fs::canonicalize(folder.path()).expect("its real path");
        let program = root.join("bin").join("clang");
        let resources = root.join("lib").join("clang");
        let libc = root.join("share").join("wasi-sysroot");
        for file in ["include/wasm32-wasi/stdio.h", "lib/wasm32-wasi/libc.a"] {
            store::write_atomically(&libc.join(file), b"").expect("write");
        }
        assert_eq!(sysroot(&program, &resources), None);
        store::make_dir(&resources.join("lib").join("wasi")).expect("create");
        assert_eq!(sysroot(&program, &resources), Some(libc));
    }
}
