//! `docs/cuda-results.md`, made from the runs of `kernels/cuda/bundle/check.sh`
//! on cards: `kernels/cuda/results/*.json`.
//!
//! `kernels/cuda/bundle/catalogue.json` lists every figure that a run has, so
//! that the page also says what no run has measured.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Name and version of a run's JSON.
pub const SCHEMA: &str = "terrarium-cuda-results/1";

/// The kernels' folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/cuda")
}

/// The page's place.
pub fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cuda-results.md")
}

/// Section, name, unit and aim of a figure.
pub type Entry = (String, String, String, Option<f64>);

/// The figures of a run or of the catalogue, in order.
///
/// # Errors
/// What is not as it should be.
pub fn entries(run: &Value) -> Result<Vec<Entry>, String> {
    let figures = run["figures"].as_array().ok_or("no list `figures`")?;
    let text = |figure: &Value, key: &str| {
        figure[key].as_str().map(clean).ok_or_else(|| format!("a figure without `{key}`: {figure}"))
    };
    figures
        .iter()
        .map(|f| Ok((text(f, "section")?, text(f, "name")?, text(f, "unit")?, f["aim"].as_f64())))
        .collect()
}

/// Reads a JSON file.
///
/// # Errors
/// With its path.
pub fn read(path: &Path) -> Result<Value, String> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| told(&e))?;
    serde_json::from_str(&text).map_err(|e| told(&e))
}

/// The runs, by name of file.
///
/// # Errors
/// A file that is no run.
pub fn runs() -> Result<BTreeMap<String, Value>, String> {
    let folder = folder().join("results");
    let list = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut runs = BTreeMap::new();
    for path in
        list.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "json"))
    {
        let run = read(&path)?;
        if run["schema"] != SCHEMA {
            return Err(format!("{} is no {SCHEMA}, but {}", path.display(), run["schema"]));
        }
        runs.insert(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), run);
    }
    Ok(runs)
}

/// The page.
///
/// # Errors
/// A run or catalogue that is not as it should be.
pub fn page(catalogue: &Value, runs: &BTreeMap<String, Value>) -> Result<String, String> {
    let mut out = String::from(
        "# What was measured on cards\n\n\
         Made from `kernels/cuda/results/*.json` by `make cuda-results`; do not edit. Each file is one run of \
         the [bundle](../kernels/cuda/bundle/README.md); how a figure comes about is in \
         [METHOD.md](../kernels/cuda/bundle/METHOD.md).\n",
    );
    if runs.is_empty() {
        out.push_str("\n**No run on a card yet. Nothing below has been measured.**\n\n");
        out.push_str("| section | figure | unit | aim | value |\n| --- | --- | --- | --- | --- |\n");
        for (section, name, unit, aim) in entries(catalogue)? {
            let aim = aim.map_or(String::new(), |aim| format!("ratio ≥ {aim}"));
            let _ = writeln!(out, "| {section} | {name} | {unit} | {aim} | not measured |");
        }
        return Ok(out);
    }
    for (name, run) in runs {
        one(&mut out, name, run)?;
    }
    Ok(out)
}

/// Text of a run in a cell of a table: it came from another machine.
fn clean(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>' | '`'));
    plain.map(|c| if c == '|' { '/' } else { c }).take(400).collect()
}

fn one(out: &mut String, name: &str, run: &Value) -> Result<(), String> {
    let machine = &run["machine"];
    let word = |value: &Value| clean(value.as_str().unwrap_or("unknown"));
    let _ = write!(
        out,
        "\n## {}\n\n{}, driver {}, {}; {}. Commit {}.\n",
        clean(name),
        word(&machine["card"]["name"]),
        word(&machine["card"]["driver_version"]),
        word(&machine["peer"]["torch"]),
        word(&run["started"]),
        word(&machine["bundle"]["commit"]),
    );
    if run["small"] == true || !run["device"].as_str().is_some_and(|d| d.starts_with("cuda:")) {
        return Err(format!("{name} is a rehearsal: it says nothing about a card"));
    }
    out.push_str("\n| section | how it ended | s |\n| --- | --- | --- |\n");
    for section in run["sections"].as_array().ok_or("no list `sections`")? {
        let why = section["why"].as_str().map_or(String::new(), |why| format!(": {}", clean(why)));
        let _ = writeln!(
            out,
            "| {} | {}{why} | {} |",
            word(&section["name"]),
            word(&section["status"]),
            section["seconds"]
        );
    }
    out.push_str("\n| section | figure | median | min | max | unit | peer | its median | ratio | aim |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (figure, (section, name, unit, aim)) in
        run["figures"].as_array().into_iter().flatten().zip(entries(run)?)
    {
        let number = |value: &Value| value.as_f64().map_or(String::new(), short);
        let aim = aim.map_or(String::new(), short);
        if figure["measured"] != true {
            let why = word(&figure["why"]);
            let _ = writeln!(out, "| {section} | {name} | not measured: {why} | | | {unit} | | | | {aim} |");
            continue;
        }
        let (value, peer) = (&figure["value"], &figure["peer"]);
        let note = figure["note"].as_str().filter(|note| !note.is_empty());
        let _ = writeln!(
            out,
            "| {section} | {name}{} | {} | {} | {} | {unit} | {} | {} | {} | {aim} |",
            note.map_or(String::new(), |note| format!(" ({})", clean(note))),
            number(&value["median"]),
            number(&value["min"]),
            number(&value["max"]),
            clean(peer["name"].as_str().unwrap_or("")),
            number(&peer["median"]),
            number(&figure["ratio"]),
        );
    }
    Ok(())
}

/// Four digits that say something.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 0.01 => {
            let digits = (3 - size.log10().floor() as i32).clamp(0, 5) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_shows_what_was_measured_and_what_was_not() {
        let figure = |name: &str, measured: bool| {
            json!({"section": "step", "name": name, "unit": "tokens/s", "measured": measured, "aim": 1.2,
                   "why": if measured { Value::Null } else { json!("no <b>time|left</b>") },
                   "value": {"median": 2_000_000.0, "min": 1.9e6, "max": 2.1e6}, "ratio": 1.25,
                   "peer": {"name": "PyTorch", "median": 1.6e6}})
        };
        let mut run = json!({"schema": SCHEMA, "device": "cuda:0", "small": false, "started": "2026-01-01",
            "machine": {"card": {"name": "A Card", "driver_version": "580"}}, "sections": [],
            "figures": [figure("whole", true), figure("portable", false)]});
        let runs = BTreeMap::from([("a-card".to_owned(), run.clone())]);
        let page = page(&json!({"figures": []}), &runs).unwrap();
        assert!(page.contains("A Card, driver 580"), "{page}");
        assert!(page.contains("| step | whole | 2000000 | 1900000 | 2100000 | tokens/s | PyTorch | 1600000 | 1.250 | 1.200 |"), "{page}");
        assert!(page.contains("| step | portable | not measured: no btime/left/b |"), "{page}");
        run["small"] = true.into();
        let rehearsal = BTreeMap::from([("a-card".to_owned(), run)]);
        assert!(super::page(&json!({"figures": []}), &rehearsal).unwrap_err().contains("rehearsal"));
    }
}
