//! Building the SDK for the target, and keeping it by what it was made from.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::compiler::with_libraries;
use super::store::{self, Staging, Step};
use super::{Compiler, Dirs, Route, TARGET, TARGET_FEATURES, Toolchain, ToolchainError};

const PACKAGE: &str = "terrarium-sdk";
const RLIB: &str = "libterrarium_sdk.rlib";
const DEPS: &str = "deps";

/// The SDK of these sources, if it has been built.
pub(crate) fn find(dirs: &Dirs, compiler: Compiler) -> Result<Toolchain, ToolchainError> {
    let key = key(dirs, &compiler)?;
    let folder = dirs.cache.join("sdk").join(&key);
    let sdk_rlib = folder.join(RLIB);
    if !sdk_rlib.is_file() {
        return Err(ToolchainError::SdkStale { key });
    }
    Ok(Toolchain { compiler, sdk_rlib, deps_dir: folder.join(DEPS), sdk_key: key })
}

/// Builds the SDK unless it is there. The caller holds the set-up's lock.
pub(crate) fn install(
    dirs: &Dirs,
    compiler: Compiler,
    progress: &mut dyn FnMut(&str),
) -> Result<Toolchain, ToolchainError> {
    if let Ok(found) = find(dirs, compiler.clone()) {
        return Ok(found);
    }
    progress("building the SDK for candidates");
    let key = key(dirs, &compiler)?;
    let sources = dirs.templates.join("sdk");
    let target_dir = dirs.cache.join("work").join(format!("sdk-{}", compiler.key));
    let mut flags = vec![
        format!("-Ctarget-feature={TARGET_FEATURES}"),
        format!("--remap-path-prefix={}=/terrarium", workspace(dirs).display()),
        format!("--remap-path-prefix={}=/build", target_dir.display()),
    ];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    if matches!(compiler.route(), Route::DebianSystem | Route::DebianUnpacked) {
        flags.push(format!("--sysroot={}", compiler.sysroot.display()));
    }
    let mut build = with_libraries(Path::new("cargo"), &compiler.library_path);
    build
        .current_dir(&sources)
        .env("RUSTC", &compiler.rustc)
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["build", "--release", "--lib", "--target", TARGET, "--package", PACKAGE, "--manifest-path"])
        .arg(sources.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir);
    if workspace(dirs).join("Cargo.lock").is_file() {
        build.arg("--locked");
    }
    Step { name: "sdk", limit: Duration::from_secs(900) }.run(dirs, &mut build)?;

    // Nothing is left to build: the same command now only says what there is.
    let messages = store::query(build.arg("--message-format=json"))?;
    let built = artifacts(&messages, &target_dir);
    let folder = dirs.cache.join("sdk").join(&key);
    let staging = Staging::beside(&folder)?;
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to).map(drop).map_err(|e| ToolchainError::io("copy", from, e))
    };
    let deps = staging.path().join(DEPS);
    store::make_dir(&deps)?;
    for path in &built {
        match path.file_name() {
            Some(name) if name == RLIB => copy(path, &staging.path().join(RLIB))?,
            Some(name) => copy(path, &deps.join(name))?,
            None => {}
        }
    }
    if !staging.path().join(RLIB).is_file() {
        return Err(ToolchainError::Step {
            step: "building the SDK".into(),
            detail: format!("it ended well and left no {RLIB}"),
            log: Some(dirs.cache.join("logs").join("sdk.log")),
        });
    }
    staging.publish(&folder)?;
    find(dirs, compiler)
}

/// The rlibs of the target that a build used or made, from cargo's messages
/// (<https://doc.rust-lang.org/cargo/reference/external-tools.html>). The build
/// folder itself cannot tell: it keeps those of earlier versions.
fn artifacts(messages: &str, target_dir: &Path) -> Vec<PathBuf> {
    let target = target_dir.join(TARGET);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .filter(|path| {
            path.starts_with(&target) && path.extension().is_some_and(|extension| extension == "rlib")
        })
        .collect()
}

/// BLAKE3 of the SDK's source, the interface, the locked versions and the compiler.
fn key(dirs: &Dirs, compiler: &Compiler) -> Result<String, ToolchainError> {
    let mut hasher = blake3::Hasher::new();
    store::hash_part(&mut hasher, compiler.key.as_bytes());
    store::hash_part(&mut hasher, TARGET_FEATURES.as_bytes());
    store::hash_tree(&mut hasher, &dirs.templates.join("sdk"))?;
    let root = workspace(dirs);
    let interface = root.join("sandbox").join("wit");
    if interface.is_dir() {
        store::hash_tree(&mut hasher, &interface)?;
    }
    if let Ok(lock) = fs::read_to_string(root.join("Cargo.lock")) {
        for package in locked(&lock) {
            store::hash_part(&mut hasher, package.as_bytes());
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

/// The entries of a `Cargo.lock` that the bindings are made with.
fn locked(lock: &str) -> impl Iterator<Item = &str> {
    lock.split("[[package]]").filter(|entry| entry.trim_start().starts_with("name = \"wit-"))
}

fn workspace(dirs: &Dirs) -> PathBuf {
    dirs.templates.parent().unwrap_or(&dirs.templates).to_owned()
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bindings_versions_are_part_of_the_key() {
        let lock = "version = 4\n\n[[package]]\nname = \"serde\"\nversion = \"1\"\n\n[[package]]\nname = \"wit-bindgen\"\nversion = \"0.60.0\"\n";
        let found: Vec<&str> = locked(lock).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("0.60.0"));
    }

    #[test]
    fn the_rlibs_of_the_target_are_read_from_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/wasm32-unknown-unknown/release/deps/liba-1.rlib\",\"/t/wasm32-unknown-unknown/release/deps/liba-1.rmeta\"]}\n\
                        {\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/release/deps/libhost-2.rlib\"]}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\nnot json\n";
        assert_eq!(
            artifacts(messages, Path::new("/t")),
            [PathBuf::from("/t/wasm32-unknown-unknown/release/deps/liba-1.rlib")]
        );
    }
}
