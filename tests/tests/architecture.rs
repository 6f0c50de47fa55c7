//! The invariants of ARCHITECTURE.md that a program can check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The workspace's packages: name to (folder, names of dependencies that are
/// not for tests alone).
fn packages() -> BTreeMap<String, (PathBuf, BTreeSet<String>)> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let package = |package: &Value| {
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let dependencies = package["dependencies"].as_array().unwrap();
        let lasting = dependencies.iter().filter(|d| d["kind"] != "dev");
        let names = lasting.map(|d| text(&d["name"])).collect();
        (text(&package["name"]), (manifest.parent().unwrap().to_owned(), names))
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

/// All Rust files below a folder, as paths from the root.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut pending = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    assert!(!found.is_empty(), "no Rust files in {folder}");
    found
}

/// The code of a file: no comments, no unit tests.
fn code(path: &Path) -> String {
    let text = read(&root().join(path));
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Files of the product's code that hold one of these words.
fn files_with(folders: &[&str], words: &[&str]) -> BTreeSet<String> {
    let files = folders.iter().flat_map(|folder| rust_files(folder));
    files
        .filter(|path| path.file_name().is_some_and(|name| name != "tests.rs"))
        .filter(|path| words.iter().any(|word| code(path).contains(word)))
        .map(|path| path.display().to_string())
        .collect()
}

const PRODUCT: [&str; 4] = ["kernels/src", "sandbox/src", "engine/src", "guest-templates/sdk/src"];

fn is_of_a_wasm_engine(name: &str) -> bool {
    ["wasm", "wit-", "cranelift", "wat", "wast"].iter().any(|start| name.starts_with(start))
}

#[test]
fn arrows_run_one_way() {
    let packages = packages();
    let ours = |name: &str| -> BTreeSet<&str> {
        let (_, dependencies) = &packages[name];
        dependencies.iter().map(String::as_str).filter(|d| d.starts_with("terrarium")).collect()
    };
    assert_eq!(ours("terrarium-kernels"), BTreeSet::new());
    assert_eq!(ours("terrarium-sdk"), BTreeSet::new());
    assert_eq!(ours("terrarium-sandbox"), BTreeSet::from(["terrarium-kernels"]));
    assert_eq!(ours("terrarium-engine"), BTreeSet::from(["terrarium-sandbox"]));
    let with_wasm: Vec<&String> = packages
        .iter()
        // The tests write modules as text; they run none of them.
        .filter(|(name, _)| !["terrarium-sdk", "terrarium-tests"].contains(&name.as_str()))
        .filter(|(_, (_, dependencies))| dependencies.iter().any(|d| is_of_a_wasm_engine(d)))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(with_wasm, ["terrarium-sandbox"], "only the sandbox knows WebAssembly");
    // The SDK makes its bindings from the interface, and runs nothing.
    let (_, of_the_sdk) = &packages["terrarium-sdk"];
    assert!(of_the_sdk.iter().all(|d| d.starts_with("wit-bindgen")), "{of_the_sdk:?}");
}

#[test]
fn no_crate_names_what_it_must_not_know() {
    assert_eq!(files_with(&["kernels/src"], &["wasm", "terrarium_sandbox"]), BTreeSet::new());
    assert_eq!(files_with(&["sandbox/src"], &["terrarium_engine"]), BTreeSet::new());
    assert_eq!(
        files_with(&["engine/src"], &["wasmtime", "wasmparser", "terrarium_kernels"]),
        BTreeSet::new()
    );
}

#[test]
fn machine_code_of_candidates_runs_in_workers_only() {
    let runs = ["instantiate(", "instantiate_pre(", "Component::deserialize", "Module::deserialize"];
    let found = files_with(&PRODUCT, &runs);
    assert!(!found.is_empty(), "the words that this test looks for are out of date");
    let outside: Vec<_> = found.iter().filter(|path| !path.starts_with("sandbox/src/worker/")).collect();
    assert_eq!(outside, Vec::<&String>::new());
    let compiles =
        ["precompile_component(", "precompile_module(", "wasmtime::Module::new(", "Component::new("];
    assert_eq!(files_with(&PRODUCT, &compiles), BTreeSet::from(["sandbox/src/codegen.rs".to_owned()]));
}

#[test]
fn every_crate_begins_with_what_it_owns() {
    for (name, (folder, _)) in packages() {
        let text = read(&folder.join("src/lib.rs"));
        let promise: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(promise.len() >= 3, "{name}: lib.rs does not begin with what the crate owns and never does");
    }
}

#[test]
fn every_file_is_a_room_not_a_hall() {
    let mut large = Vec::new();
    for folder in PRODUCT.iter().chain(&["tests/src", "tests/tests", "kernels/tests", "sandbox/tests"]) {
        for path in rust_files(folder) {
            let lines = read(&root().join(&path)).lines().count();
            if lines > 800 {
                large.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert_eq!(large, Vec::<String>::new());
}

/// What stands between backticks and looks like a path of this repository.
fn named_paths(document: &str) -> Vec<String> {
    let text = read(&root().join(document));
    let quoted = text.split('`').skip(1).step_by(2);
    let tops = ["kernels/", "sandbox/", "engine/", "guest-templates/", "tests/", "schemas/"];
    let paths = quoted.filter(|word| tops.iter().any(|top| word.starts_with(top)));
    paths.filter(|word| !word.contains([' ', '*', '\n'])).map(str::to_owned).collect()
}

#[test]
fn documents_name_only_files_that_exist() {
    for document in ["ARCHITECTURE.md", "SECURITY.md"] {
        let named = named_paths(document);
        assert!(named.len() > 5, "{document} names {named:?}");
        let missing: Vec<_> = named.iter().filter(|path| !root().join(path).exists()).collect();
        assert_eq!(missing, Vec::<&String>::new(), "named in {document}");
    }
}
