//! The default corpus: the Rust source of pinned crates.
//!
//! The versions are in `engine/corpus/Cargo.toml`, the checksums in its
//! `Cargo.lock`; both are compiled into this program, so it needs no source
//! tree. Cargo fetches and checks; nothing is compiled.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use terrarium_sandbox::toolchain::{Dirs, ToolchainError, store};

use super::shards::{Collected, Document, read_text};
use super::{CorpusError, SCHEMA, Split};

const MANIFEST: &str = include_str!("../../corpus/Cargo.toml");
const LOCK: &str = include_str!("../../corpus/Cargo.lock");

/// Longer files are tables more often than programs.
const MAX_FILE_BYTES: usize = 300 << 10;
/// Less than this, and something was left out that should not have been.
const MIN_TOTAL_BYTES: usize = 10_000_000;

#[derive(Deserialize)]
struct Wanted {
    dependencies: std::collections::BTreeMap<String, toml::Value>,
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    corpus: Rules,
}

#[derive(Deserialize)]
struct Rules {
    val: Vec<String>,
    r#final: Vec<String>,
    exclude: Vec<String>,
}

impl Rules {
    fn split_of(&self, name: &str) -> Split {
        if self.val.iter().any(|listed| listed == name) {
            Split::Val
        } else if self.r#final.iter().any(|listed| listed == name) {
            Split::Final
        } else {
            Split::Train
        }
    }
}

/// The id is known before anything is fetched.
pub(super) fn id() -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [SCHEMA, MANIFEST, LOCK] {
        store::hash_part(&mut hasher, part.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

pub(super) fn collect(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Collected, CorpusError> {
    let wanted: Wanted = toml::from_str(MANIFEST).map_err(|e| CorpusError::Default(e.to_string()))?;
    let rules = &wanted.package.metadata.corpus;
    progress("fetching the sources of the default corpus");
    let names =
        wanted.dependencies.iter().filter_map(|(name, spec)| Some((name.clone(), pinned(spec)?))).collect();
    let folders = fetch(dirs, &names)?;
    let mut documents = Vec::new();
    let mut crates = Vec::new();
    let mut seen = HashSet::new();
    for (name, folder) in &folders {
        let split = rules.split_of(name);
        crates.push((split, name.clone()));
        let mut files = Vec::new();
        rust_files(folder, &mut files)?;
        for path in files {
            let inside = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            let name = format!("{name}/{inside}");
            if rules.exclude.iter().any(|part| name.contains(part.as_str())) {
                continue;
            }
            let Ok(text) = read_text(&path)? else {
                continue;
            };
            let head = &text[..text.len().min(1024)];
            let generated = head.windows(10).any(|window| window == b"@generated");
            // The same file in two crates would be in two splits.
            if text.len() <= MAX_FILE_BYTES && !generated && seen.insert(blake3::hash(&text)) {
                documents.push(Document { name, split, text });
            }
        }
    }
    let total: usize = documents.iter().map(|document| document.text.len()).sum();
    if total < MIN_TOTAL_BYTES {
        return Err(CorpusError::Default(format!(
            "only {total} bytes of text were found in {} crates",
            folders.len()
        )));
    }
    let source = format!("Rust source of {} crates, pinned by engine/corpus/Cargo.lock", folders.len());
    Ok(Collected { source, documents, crates, skipped: Vec::new() })
}

/// The version of a dependency that is pinned with `=`.
fn pinned(spec: &toml::Value) -> Option<String> {
    let version = spec.as_str().or_else(|| spec.get("version").and_then(toml::Value::as_str))?;
    version.strip_prefix('=').map(str::to_owned)
}

/// Fetches the crates; returns name and folder of each wanted one, by name.
fn fetch(dirs: &Dirs, names: &BTreeSet<(String, String)>) -> Result<Vec<(String, PathBuf)>, CorpusError> {
    let work = dirs.cache.join("work").join("corpus");
    store::write_atomically(&work.join("Cargo.toml"), MANIFEST.as_bytes())?;
    store::write_atomically(&work.join("Cargo.lock"), LOCK.as_bytes())?;
    store::write_atomically(&work.join("lib.rs"), b"")?;
    let target = "x86_64-unknown-linux-gnu";
    store::Step { name: "corpus", limit: Duration::from_secs(900) }.run(
        dirs,
        store::clean_command("cargo").current_dir(&work).args(["fetch", "--locked", "--target", target]),
    )?;
    let metadata = store::query(store::clean_command("cargo").current_dir(&work).args([
        "metadata",
        "--locked",
        "--offline",
        "--format-version=1",
        "--filter-platform",
        target,
    ]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).map_err(|e| CorpusError::Default(format!("cargo metadata: {e}")))?;
    let mut found: Vec<(String, PathBuf)> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| {
            let name = package["name"].as_str()?.to_owned();
            let folder = Path::new(package["manifest_path"].as_str()?).parent()?.to_owned();
            // Other versions of it may be among the dependencies of the others.
            let wanted = names.contains(&(name.clone(), package["version"].as_str()?.to_owned()));
            wanted.then_some((name, folder))
        })
        .collect();
    found.sort();
    if found.len() != names.len() {
        return Err(CorpusError::Default(format!("{} of {} crates were fetched", found.len(), names.len())));
    }
    Ok(found)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), ToolchainError> {
    let io = |source| ToolchainError::Io { doing: "read", path: folder.to_owned(), source };
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).map_err(io)?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_pinned_and_every_held_out_crate_is_wanted() {
        let wanted: Wanted = toml::from_str(MANIFEST).expect("the manifest");
        for (name, spec) in &wanted.dependencies {
            assert!(pinned(spec).is_some(), "{name} is not pinned: {spec}");
        }
        let rules = &wanted.package.metadata.corpus;
        for list in [&rules.val, &rules.r#final] {
            assert!(list.len() >= 3);
            assert!(list.iter().all(|name| wanted.dependencies.contains_key(name)), "{list:?}");
        }
        assert!(rules.val.iter().all(|name| !rules.r#final.contains(name)));
    }
}
