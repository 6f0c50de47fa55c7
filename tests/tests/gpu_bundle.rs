//! The bundle for a machine with a card, on a machine without one: its check
//! goes as far as the first CUDA call, says what it left out, and still writes
//! a whole JSON. And rehearsed on the CPU device, it measures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use terrarium_tests::command::terrarium;
use terrarium_tests::cuda_results as results;

/// A bundle of what check.sh needs first, without guests and tests.
struct Bundle {
    folder: tempfile::TempDir,
}

/// Whether check.sh finds its interpreter here.
fn has_python() -> bool {
    let found =
        Command::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]).status();
    found.is_ok_and(|status| status.success())
}

fn built(name: &str) -> PathBuf {
    let found = terrarium().with_file_name(name);
    assert!(
        found.is_file(),
        "{} is missing: cargo build --release --workspace --all-targets",
        found.display()
    );
    found
}

impl Bundle {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = results::folder().join("bundle");
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        std::fs::create_dir_all(folder.path().join("check")).unwrap();
        std::fs::create_dir_all(folder.path().join("templates")).unwrap();
        std::fs::copy(source.join("check.sh"), folder.path().join("check.sh")).unwrap();
        for entry in std::fs::read_dir(source.join("check")).unwrap().flatten() {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), folder.path().join("check").join(entry.file_name())).unwrap();
            }
        }
        for (name, program) in [("terrarium", terrarium()), ("bench_device", built("examples/bench_device"))]
        {
            std::os::unix::fs::symlink(program, folder.path().join("bin").join(name)).unwrap();
        }
        Self { folder }
    }

    fn check(&self, arguments: &[&str]) -> (Value, String) {
        let out = self.folder.path().join("results.json");
        let output = Command::new("sh")
            .arg(self.folder.path().join("check.sh"))
            .args(arguments)
            .arg("--out")
            .arg(&out)
            // No driver that a developer's machine may have.
            .env("CUDA_VISIBLE_DEVICES", "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (results::read(Path::new(&out)).unwrap(), said)
    }
}

fn section<'a>(run: &'a Value, name: &str) -> &'a Value {
    let sections = run["sections"].as_array().unwrap();
    sections.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no section {name}: {run:#}"))
}

#[test]
fn without_a_card_the_check_says_what_it_skipped_and_writes_every_figure() {
    if !has_python() {
        eprintln!("skipped: no python3 of 3.8 or newer");
        return;
    }
    let (run, said) = Bundle::new().check(&["--seconds", "120"]);
    assert_eq!(run["schema"], results::SCHEMA);
    for name in ["machine", "correctness", "step", "products", "hostile", "sanitizer"] {
        let section = section(&run, name);
        assert_eq!(section["status"], "skipped", "{section}");
        assert!(section["why"].as_str().is_some_and(|why| why.to_lowercase().contains("cuda")), "{section}");
        assert!(said.contains(name), "{said}");
    }
    let figures = run["figures"].as_array().unwrap();
    assert!(figures.len() > 50, "{}", figures.len());
    for figure in figures {
        assert_eq!((&figure["measured"], &figure["value"]), (&false.into(), &Value::Null), "{figure}");
        assert!(figure["why"].as_str().is_some_and(|why| !why.is_empty()), "{figure}");
    }
    // The page of results is made with this list.
    let catalogue = results::read(&results::folder().join("bundle/catalogue.json")).unwrap();
    assert_eq!(
        results::entries(&catalogue).unwrap(),
        results::entries(&run).unwrap(),
        "catalogue.json is not what check.sh declares; copy the `figures` of a run without a card into it"
    );
}

#[test]
fn rehearsed_on_the_cpu_device_it_measures() {
    if !has_python() {
        eprintln!("skipped: no python3 of 3.8 or newer");
        return;
    }
    let arguments =
        ["--device", "cpu", "--small", "--only", "compare,products,bandwidth,step", "--seconds", "120"];
    let (run, said) = Bundle::new().check(&arguments);
    for name in ["machine", "compare", "products", "bandwidth", "step"] {
        assert_eq!(section(&run, name)["status"], "done", "{said}\n{run:#}");
    }
    let wanted = ["compare", "products", "bandwidth"];
    for figure in run["figures"].as_array().unwrap() {
        let name = figure["name"].as_str().unwrap();
        let whole = figure["section"] == "step" && (figure["aim"] == 1.2 || name.starts_with("the most"));
        if whole || wanted.iter().any(|section| figure["section"] == *section) {
            assert_eq!(figure["measured"], true, "{figure}\n{said}");
            let value = figure["value"]["median"].as_f64().unwrap();
            assert!(value.is_finite() && (value > 0.0 || figure["section"] == "compare"), "{figure}");
        }
    }
    // Such a run never becomes a result.
    let page = results::page(&run, &BTreeMap::from([("cpu".to_owned(), run.clone())]));
    assert!(page.unwrap_err().contains("rehearsal"));
}

#[test]
fn without_python_there_is_still_a_json() {
    let bundle = Bundle::new();
    let out = bundle.folder.path().join("results.json");
    let status = Command::new("/bin/sh")
        .arg(bundle.folder.path().join("check.sh"))
        .args(["--out", out.to_str().unwrap()])
        .env("PATH", bundle.folder.path().join("check"))
        .env_remove("PYTHON")
        .status()
        .unwrap();
    assert!(status.success());
    let run = results::read(&out).unwrap();
    assert_eq!(run["schema"], results::SCHEMA);
    assert_eq!(section(&run, "machine")["status"], "skipped");
}

#[test]
fn the_page_of_results_is_up_to_date() {
    let catalogue = results::read(&results::folder().join("bundle/catalogue.json")).unwrap();
    let page = results::page(&catalogue, &results::runs().unwrap()).unwrap();
    let kept = std::fs::read_to_string(results::page_path()).unwrap();
    assert!(page == kept, "docs/cuda-results.md is not what the results say: run `make cuda-results`");
}
