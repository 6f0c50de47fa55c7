//! The Debian route: a compiler and its library's source as packages, and the
//! target's standard library built once from them.
//!
//! The packages are a whole compiler of their own version. They are never
//! mixed with the compiler that builds this program: `RUSTC` is set for the
//! commands here and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::compiler::{self, Compiler, with_libraries};
use super::store::{self, Staging, Step};
use super::{Dirs, Route, TARGET, TARGET_FEATURES, ToolchainError};

const PACKAGES: &[&str] = &["rustc-web", "rust-web-src", "rust-web-llvm"];

/// Where the packages put things, below `/` or below an unpacked tree.
const RUSTC: &str = "usr/bin/rustc";
const LIBRARY_SOURCE: &str = "usr/lib/rustlib/src/rust/library";

/// The packages as the system has them; as root they are installed first.
pub(crate) fn system(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Compiler, ToolchainError> {
    let root = Path::new("/");
    if !has_packages(root) {
        if !rustix::process::geteuid().is_root() {
            return Err(ToolchainError::NotInstalled {
                what: format!("{} are not installed, and only root can install them", PACKAGES.join(", ")),
            });
        }
        apt_install(dirs, progress)?;
    }
    let (rustc, sysroot) = with_std(dirs, root, &[], progress)?;
    Compiler::inspect(Route::DebianSystem, &rustc, &sysroot, Vec::new())
}

/// The packages unpacked into the cache folder.
pub(crate) fn unpacked(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Compiler, ToolchainError> {
    let root = dirs.cache.join("toolchain").join("debian");
    if !has_packages(&root) {
        let packages = Packages { planned: PACKAGES, named: PACKAGES, complete: has_packages };
        unpack(dirs, &root, &packages, progress)?;
    }
    let library_path = library_path(&root, "usr/lib/llvm-22/lib");
    let (rustc, sysroot) = with_std(dirs, &root, &library_path, progress)?;
    Compiler::inspect(Route::DebianUnpacked, &rustc, &sysroot, library_path)
}

fn has_packages(root: &Path) -> bool {
    root.join(RUSTC).is_file() && root.join(LIBRARY_SOURCE).join("std").is_dir()
}

fn apt_install(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<(), ToolchainError> {
    let Some(apt) = store::on_path("apt-get") else {
        return Err(ToolchainError::NotInstalled { what: "there is no apt-get".into() });
    };
    progress(&format!("installing {} with apt", PACKAGES.join(", ")));
    let mut update = Command::new(&apt);
    update.env("DEBIAN_FRONTEND", "noninteractive").arg("update");
    Step { name: "apt-get update", limit: Duration::from_secs(300) }.run(dirs, &mut update)?;
    let mut install = Command::new(&apt);
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The packages conflict with the distribution's older rustc. Somebody
        // else's compiler is not ours to remove.
        .args(["install", "-y", "--no-install-recommends", "--no-remove"])
        .args(PACKAGES);
    Step { name: "apt-get install", limit: Duration::from_secs(900) }.run(dirs, &mut install)?;
    if has_packages(Path::new("/")) {
        return Ok(());
    }
    Err(ToolchainError::NotInstalled {
        what: "the packages were installed without a rustc and its source".into(),
    })
}

/// Where the libraries of an unpacked tree lie.
pub(super) fn library_path(root: &Path, llvm: &str) -> Vec<PathBuf> {
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", llvm]
        .iter()
        .map(|folder| root.join(folder))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// What to unpack.
pub(super) struct Packages {
    /// With everything that they depend on and that the system lacks.
    pub planned: &'static [&'static str],
    /// These alone, and even where the system has them.
    pub named: &'static [&'static str],
    /// Whether a tree has all that is needed.
    pub complete: fn(&Path) -> bool,
}

/// Downloads packages and unpacks them into `root`, without rights.
pub(super) fn unpack(
    dirs: &Dirs,
    root: &Path,
    packages: &Packages,
    progress: &mut dyn FnMut(&str),
) -> Result<(), ToolchainError> {
    for program in ["apt-get", "dpkg"] {
        if store::on_path(program).is_none() {
            return Err(ToolchainError::NotInstalled { what: format!("there is no {program}") });
        }
    }
    let options = own_lists(dirs, progress)?;
    let apt_get = || {
        let mut apt_get = Command::new("apt-get");
        apt_get.args(&options);
        apt_get
    };
    let plan = store::query(
        apt_get()
            .env("LC_ALL", "C")
            .args(["-s", "-o", "Debug::NoLocking=1", "install", "--no-install-recommends"])
            .args(packages.planned),
    )?;
    let mut wanted = planned(&plan);
    for package in packages.named {
        if !wanted.iter().any(|name| name == package) {
            wanted.push((*package).to_owned());
        }
    }
    progress(&format!("downloading {} packages into {}", wanted.len(), root.display()));
    let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let work = dirs.cache.join("work").join(format!("{name}-packages"));
    // Archives of an earlier version would be unpacked too.
    let _ = fs::remove_dir_all(&work);
    store::make_dir(&work)?;
    let mut download = apt_get();
    download.arg("download").args(&wanted).current_dir(&work);
    Step { name: "apt-get download", limit: Duration::from_secs(900) }.run(dirs, &mut download)?;
    let staging = Staging::beside(root)?;
    let mut archives: Vec<PathBuf> = fs::read_dir(&work)
        .map_err(|e| ToolchainError::io("read", &work, e))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    archives.sort();
    for archive in &archives {
        let mut extract = Command::new("dpkg");
        extract.arg("-x").arg(archive).arg(staging.path());
        Step { name: "dpkg -x", limit: Duration::from_secs(300) }.run(dirs, &mut extract)?;
    }
    if !(packages.complete)(staging.path()) {
        return Err(ToolchainError::NotInstalled {
            what: format!("the packages {} lack what they should have", packages.named.join(", ")),
        });
    }
    staging.publish(root)?;
    let _ = fs::remove_dir_all(&work);
    Ok(())
}

/// Options by which apt uses package lists in the cache folder, renewed without
/// rights; none, and so the system's lists, where that fails.
fn own_lists(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Vec<String>, ToolchainError> {
    let apt = dirs.cache.join("work").join("apt");
    let (lists, cache) = (apt.join("lists"), apt.join("cache"));
    store::make_dir(&lists.join("partial"))?;
    store::make_dir(&cache.join("archives").join("partial"))?;
    let option = |name: &str, folder: &Path| ["-o".to_owned(), format!("{name}={}", folder.display())];
    let options = [option("Dir::State::lists", &lists), option("Dir::Cache", &cache)].concat();
    progress("fetching the lists of packages");
    let mut update = Command::new("apt-get");
    update.args(&options).arg("update");
    let update = Step { name: "apt-get update", limit: Duration::from_secs(300) }.run(dirs, &mut update);
    Ok(match update {
        Ok(_) => options,
        Err(error) => {
            progress(&format!("{error}; the lists of the system will do"));
            Vec::new()
        }
    })
}

/// The package names of `apt-get -s install`.
fn planned(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(|name| name.to_owned())
        .collect()
}

/// Builds the target's standard library, once for each compiler. Returns the
/// compiler and the sysroot.
fn with_std(
    dirs: &Dirs,
    root: &Path,
    library_path: &[PathBuf],
    progress: &mut dyn FnMut(&str),
) -> Result<(PathBuf, PathBuf), ToolchainError> {
    let rustc = root.join(RUSTC);
    let verbose = store::query(with_libraries(&rustc, library_path).arg("-vV"))?;
    let mut hasher = blake3::Hasher::new();
    store::hash_part(&mut hasher, verbose.as_bytes());
    store::hash_part(&mut hasher, TARGET_FEATURES.as_bytes());
    let key = hasher.finalize().to_hex()[..16].to_owned();
    let sysroot = dirs.cache.join("toolchain").join(format!("std-{key}"));
    if compiler::has_std(&sysroot) {
        return Ok((rustc, sysroot));
    }
    progress(&format!("building the standard library for {TARGET} (about half a minute, once)"));
    let work = dirs.cache.join("work").join(format!("std-{key}"));
    write_seed(&work)?;
    // Any linker would do: a library is not linked. Cargo only wants a name.
    let source = fs::canonicalize(root.join(LIBRARY_SOURCE)).unwrap_or_else(|_| root.join(LIBRARY_SOURCE));
    let mut build = with_libraries(Path::new("cargo"), library_path);
    build
        .current_dir(&work)
        .env("RUSTC", &rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TARGET_DIR", work.join("target"))
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!(
                "-Ctarget-feature={TARGET_FEATURES}\u{1f}--remap-path-prefix={}=/rust/library",
                source.display()
            ),
        )
        .args(["build", "--release", "-Z", "build-std=std,panic_abort", "--target", TARGET]);
    Step { name: "build-std", limit: Duration::from_secs(900) }.run(dirs, &mut build)?;
    let staging = Staging::beside(&sysroot)?;
    let library = compiler::target_library(staging.path());
    store::make_dir(&library)?;
    let built = work.join("target").join(TARGET).join("release").join("deps");
    for entry in fs::read_dir(&built).map_err(|e| ToolchainError::io("read", &built, e))?.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.extension().is_some_and(|extension| extension == "rlib")
            && !name.to_string_lossy().starts_with("libseed")
        {
            fs::copy(&path, library.join(&name)).map_err(|e| ToolchainError::io("copy", &path, e))?;
        }
    }
    if !compiler::has_std(staging.path()) {
        return Err(ToolchainError::Step {
            step: "building the standard library".into(),
            detail: "it ended well and left no libstd".into(),
            log: Some(dirs.cache.join("logs").join("build-std.log")),
        });
    }
    staging.publish(&sysroot)?;
    let _ = fs::remove_dir_all(&work);
    Ok((rustc, sysroot))
}

/// An empty crate, whose build makes cargo build the standard library.
fn write_seed(work: &Path) -> Result<(), ToolchainError> {
    let manifest = "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
                    [profile.release]\npanic = \"abort\"\nopt-level = 3\ncodegen-units = 1\n";
    store::write_atomically(&work.join("Cargo.toml"), manifest.as_bytes())?;
    store::write_atomically(&work.join("src").join("lib.rs"), b"#![no_std]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_apt_is_read() {
        let plan = "NOTE: This is only a simulation!\nInst libllvm22 (1:22 Debian [amd64])\nInst rustc-web (1.96.0 Debian [amd64])\nConf rustc-web (1.96.0)\n";
        assert_eq!(planned(plan), ["libllvm22", "rustc-web"]);
    }
}
