//! Finding a `rustc` that has the target, by one of the routes, and recording
//! it so that the next start has nothing to find.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::store::{self, Step};
use super::{Dirs, Route, TARGET, ToolchainError, debian};

/// A compiler, the library of the target, and what they need to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiler {
    /// How it was found; see [`Compiler::route`].
    route: String,
    /// The real program, never rustup's proxy.
    pub rustc: PathBuf,
    /// First line of `rustc --version`.
    pub version: String,
    /// BLAKE3 of `rustc -vV` and of the route.
    pub key: String,
    /// The folder for `--sysroot`, which has the target's library.
    pub sysroot: PathBuf,
    /// A linker that understands `-flavor wasm` or is `wasm-ld` itself.
    pub linker: PathBuf,
    /// `LD_LIBRARY_PATH` that the compiler needs; empty where it needs none.
    pub library_path: Vec<PathBuf>,
    /// Every shared library (and the program interpreter) that the compiler
    /// and the linker load, as real paths.
    pub libraries: Vec<PathBuf>,
    /// The program interpreter alone, which must be executable in the jail.
    pub interpreter: Vec<PathBuf>,
    /// Length and time of change of `rustc` when it was recorded.
    fingerprint: (u64, u64),
}

impl Compiler {
    /// How it was found.
    pub fn route(&self) -> Route {
        match self.route.as_str() {
            "installed" => Route::Installed,
            "rustup" => Route::Rustup,
            "debian-unpacked" => Route::DebianUnpacked,
            _ => Route::DebianSystem,
        }
    }

    /// The folder of the target's library.
    pub fn target_library(&self) -> PathBuf {
        target_library(&self.sysroot)
    }

    /// Reads the record of an earlier set-up and checks that it still holds.
    pub(crate) fn recorded(dirs: &Dirs) -> Result<Self, ToolchainError> {
        let missing = |what: String| ToolchainError::NotInstalled { what };
        let path = record_path(dirs);
        let bytes = fs::read(&path).map_err(|_| missing(format!("there is no {}", path.display())))?;
        let compiler: Self = serde_json::from_slice(&bytes)
            .map_err(|e| missing(format!("{} is not a record of this version ({e})", path.display())))?;
        if fingerprint(&compiler.rustc) != Some(compiler.fingerprint) {
            return Err(missing(format!("{} has changed or gone", compiler.rustc.display())));
        }
        if !compiler.linker.is_file() {
            return Err(missing(format!("the linker {} has gone", compiler.linker.display())));
        }
        if !has_std(&compiler.sysroot) {
            return Err(missing(format!(
                "there is no library for {TARGET} in {}",
                compiler.sysroot.display()
            )));
        }
        if let Some(library) = compiler.libraries.iter().find(|library| !library.exists()) {
            return Err(missing(format!("the library {} has gone", library.display())));
        }
        Ok(compiler)
    }

    pub(crate) fn record(&self, dirs: &Dirs) -> Result<(), ToolchainError> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| ToolchainError::Step {
            step: "recording the compiler".into(),
            detail: e.to_string(),
            log: None,
        })?;
        store::write_atomically(&record_path(dirs), &text)
    }

    /// Reads everything that the record holds off a compiler and its sysroot.
    pub(crate) fn inspect(
        route: Route,
        rustc: &Path,
        sysroot: &Path,
        library_path: Vec<PathBuf>,
    ) -> Result<Self, ToolchainError> {
        let rustc = fs::canonicalize(rustc).map_err(|e| ToolchainError::io("find", rustc, e))?;
        let verbose = store::query(with_libraries(&rustc, &library_path).arg("-vV"))?;
        let host = verbose
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .unwrap_or("x86_64-unknown-linux-gnu")
            .to_owned();
        let linker = linker(&rustc, &host)?;
        let (mut libraries, mut interpreter) = (Vec::new(), Vec::new());
        for program in [&rustc, &linker] {
            shared_libraries(program, &library_path, &mut libraries, &mut interpreter)?;
        }
        for list in [&mut libraries, &mut interpreter] {
            list.sort();
            list.dedup();
        }
        let route = match route {
            Route::Installed => "installed",
            Route::Rustup => "rustup",
            Route::DebianSystem => "debian-system",
            Route::DebianUnpacked => "debian-unpacked",
        };
        let mut hasher = blake3::Hasher::new();
        store::hash_part(&mut hasher, verbose.as_bytes());
        store::hash_part(&mut hasher, route.as_bytes());
        Ok(Self {
            route: route.into(),
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            key: hasher.finalize().to_hex()[..16].to_owned(),
            sysroot: sysroot.to_owned(),
            linker,
            library_path,
            libraries,
            interpreter,
            fingerprint: fingerprint(&rustc).unwrap_or_default(),
            rustc,
        })
    }
}

/// Tries the routes in turn.
pub(crate) fn acquire(
    dirs: &Dirs,
    routes: &[Route],
    progress: &mut dyn FnMut(&str),
) -> Result<Compiler, ToolchainError> {
    let mut tried = Vec::new();
    for route in routes {
        let result = match route {
            Route::Installed => installed(Route::Installed),
            Route::Rustup => rustup(dirs, progress),
            Route::DebianSystem => debian::system(dirs, progress),
            Route::DebianUnpacked => debian::unpacked(dirs, progress),
        };
        match result {
            Ok(compiler) => {
                progress(&format!("compiler: {} at {}", compiler.version, compiler.rustc.display()));
                return Ok(compiler);
            }
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(ToolchainError::NoRoute { tried })
}

/// The `rustc` on the path, if its sysroot has the target.
fn installed(route: Route) -> Result<Compiler, ToolchainError> {
    let sysroot = PathBuf::from(store::query(store::clean_command("rustc").args(["--print", "sysroot"]))?);
    if !has_std(&sysroot) {
        return Err(ToolchainError::NotInstalled { what: format!("{} has no {TARGET}", sysroot.display()) });
    }
    Compiler::inspect(route, &sysroot.join("bin").join("rustc"), &sysroot, Vec::new())
}

fn rustup(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Compiler, ToolchainError> {
    let Some(rustup) = store::on_path("rustup") else {
        return Err(ToolchainError::NotInstalled { what: "rustup is not on the path".into() });
    };
    progress(&format!("adding {TARGET} with rustup"));
    Step { name: "rustup target add", limit: Duration::from_secs(180) }
        .run(dirs, store::clean_command(rustup).args(["target", "add", TARGET]))?;
    installed(Route::Rustup)
}

fn record_path(dirs: &Dirs) -> PathBuf {
    dirs.cache.join("toolchain").join("compiler.json")
}

pub(crate) fn target_library(sysroot: &Path) -> PathBuf {
    sysroot.join("lib").join("rustlib").join(TARGET).join("lib")
}

/// Whether a sysroot has the standard library of the target.
pub(crate) fn has_std(sysroot: &Path) -> bool {
    let Ok(entries) = fs::read_dir(target_library(sysroot)) else {
        return false;
    };
    let names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    ["libstd-", "libcore-", "liballoc-"]
        .iter()
        .all(|prefix| names.iter().any(|name| name.starts_with(prefix) && name.ends_with(".rlib")))
}

pub(super) fn fingerprint(path: &Path) -> Option<(u64, u64)> {
    let data = fs::metadata(path).ok()?;
    let changed = data.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((data.len(), changed.as_secs()))
}

/// A command that finds its libraries.
pub(crate) fn with_libraries(program: &Path, library_path: &[PathBuf]) -> Command {
    let mut command = store::clean_command(program);
    if let Ok(joined) = std::env::join_paths(library_path)
        && !library_path.is_empty()
    {
        command.env("LD_LIBRARY_PATH", joined);
    }
    command
}

/// A linker for WebAssembly: the one that came with the compiler, or with the
/// `rustc` on the path, or LLVM's own.
pub(super) fn linker(rustc: &Path, host: &str) -> Result<PathBuf, ToolchainError> {
    let mut candidates = Vec::new();
    if let Some(prefix) = rustc.parent().and_then(Path::parent) {
        candidates.push(prefix.join("lib").join("rustlib").join(host).join("bin").join("rust-lld"));
    }
    if let Ok(sysroot) = store::query(store::clean_command("rustc").args(["--print", "sysroot"])) {
        candidates
            .push(PathBuf::from(sysroot).join("lib").join("rustlib").join(host).join("bin").join("rust-lld"));
    }
    candidates.extend(store::on_path("rust-lld"));
    candidates.extend(store::on_path("wasm-ld"));
    candidates.extend((14..=24).rev().filter_map(|version| store::on_path(&format!("wasm-ld-{version}"))));
    for candidate in candidates {
        let mut probe = store::clean_command(&candidate);
        if candidate.file_name().is_some_and(|name| name == "rust-lld") {
            probe.args(["-flavor", "wasm"]);
        }
        if store::query(probe.arg("--version")).is_ok() {
            // `wasm-ld` is known by its name: keep the symbolic link, resolve its folder.
            return std::path::absolute(&candidate).map_err(|e| ToolchainError::io("find", &candidate, e));
        }
    }
    Err(ToolchainError::NotInstalled { what: "there is no rust-lld and no wasm-ld".into() })
}

/// Asks `ldd` what a program loads.
pub(super) fn shared_libraries(
    program: &Path,
    library_path: &[PathBuf],
    libraries: &mut Vec<PathBuf>,
    interpreter: &mut Vec<PathBuf>,
) -> Result<(), ToolchainError> {
    let mut command = with_libraries(Path::new("ldd"), library_path);
    for path in parse_ldd(&store::query(command.arg(program))?) {
        let real = fs::canonicalize(&path).map_err(|e| ToolchainError::io("find the library", &path, e))?;
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-")) {
            interpreter.push(real.clone());
        }
        libraries.push(real);
    }
    Ok(())
}

/// `name => /path (0x…)` and `/path (0x…)`.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let place = line.rsplit_once(" => ").map_or(line, |(_, place)| place).trim();
            let path = place.rsplit_once(" (0x").map_or(place, |(path, _)| path);
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_line_that_ldd_prints_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n\tstatically linked\n";
        assert_eq!(
            parse_ldd(text),
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]
        );
    }

    #[test]
    fn a_record_that_is_not_one_says_so_and_names_the_command() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dirs = Dirs { cache: folder.path().into(), templates: folder.path().into() };
        let error = Compiler::recorded(&dirs).expect_err("nothing recorded");
        assert!(error.hint().contains("terrarium setup"));
        store::write_atomically(&record_path(&dirs), b"{\"route\": 3}").expect("write");
        assert!(matches!(Compiler::recorded(&dirs), Err(ToolchainError::NotInstalled { .. })));
    }
}
