//! The main job, scaled down: from a task to a winner that is better beyond
//! noise, with a page to show it.

use std::path::Path;

use serde_json::Value;
use terrarium_tests::command::{Home, TinyTask, finish, json_lines};
use terrarium_tests::json_schema::Schema;

/// A baseline that learns far too slowly: there is something to be found.
fn timid() -> TinyTask {
    TinyTask {
        search: "generation_size = 6\ngenerations = 2\nnoise_seeds = 3\nrace_seeds = 4\nfinal_seeds = 3\n\
                 proposers = { knobs = 1.0 }"
            .into(),
        knobs: vec![("matrix_rate", "0.001"), ("embedding_rate", "0.003"), ("head_rate", "0.0002")],
        ..TinyTask::default()
    }
}

/// What a page refers to that does not lie in it: the starts of addresses.
fn outside_references(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for mark in ["src=", "srcset=", "href=", "action=", "url(", "@import"] {
        for (at, _) in page.match_indices(mark) {
            let rest = page[at + mark.len()..].trim_start_matches(['"', '\'', ' ', '(']);
            if ["http:", "https:", "//"].iter().any(|start| rest.starts_with(start)) {
                found.push(rest.chars().take(60).collect());
            }
        }
    }
    found
}

#[test]
fn a_page_that_loads_something_is_noticed() {
    for page in ["<img src=\"http://a\">", "<a href='//a'>", "<style>@import url(https://a)</style>"] {
        assert!(!outside_references(page).is_empty(), "{page}");
    }
    assert!(outside_references("<svg xmlns=\"http://www.w3.org/2000/svg\"><a href=\"#top\">").is_empty());
}

fn check_page(path: &Path) {
    let page = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        page.trim_start().to_lowercase().starts_with("<!doctype html>"),
        "{}",
        &page[..page.len().min(80)]
    );
    assert!(page.trim_end().ends_with("</html>"));
    assert_eq!(outside_references(&page), Vec::<String>::new());
    assert!(!page.contains("<link"), "a page of its own needs no other file");
}

#[test]
fn a_run_finds_what_is_better_and_says_by_how_much() {
    let home = Home::new(&timid());
    let lines = home.json(0, &["run", "./task", "--data", "text", "--out", "run", "--seed", "5", "--json"]);
    let schema = Schema::named("run");
    for line in &lines {
        schema.check(line).unwrap_or_else(|e| panic!("{e}\n{line}"));
    }
    let of_kind = |kind: &str| lines.iter().filter(|l| l["event"] == kind).count();
    assert_eq!(lines[0]["event"], "opened");
    assert_eq!((of_kind("noise-floor"), of_kind("final"), of_kind("finished")), (1, 1, 1));
    assert_eq!(of_kind("evaluation-started"), of_kind("evaluation-finished"));
    assert!(of_kind("crowned") >= 1, "{lines:#?}");

    let finished = lines.last().unwrap();
    assert_eq!(finished["event"], "finished");
    let (baseline, best) = (&finished["baseline"], &finished["best"]);
    assert_ne!(baseline["candidate"], best["candidate"]);
    assert_eq!(best["beats_noise"], true, "{finished:#}");
    assert_eq!(finished["kept"], best["candidate"]);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {finished:#}"));
    let (low, high) = (number(&best["interval"][0]), number(&best["interval"][1]));
    let gain = number(&baseline["score"]) - number(&best["score"]);
    assert!(0.0 < low && low <= gain && gain <= high, "{low} {gain} {high}");
    assert!(gain > number(&finished["noise"]), "{finished:#}");

    let page = home.path("run/report.html");
    check_page(&page);
    std::fs::remove_file(&page).unwrap();
    let shown = home.run(0, &["report", "run"]);
    check_page(&page);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let winner = best["candidate"].as_str().unwrap();
    assert!(shown.contains(&winner[..8]), "the table does not name the winner {winner}:\n{shown}");
    let elsewhere = home.path("elsewhere.html");
    home.run(0, &["report", "run", "--html", "elsewhere.html"]);
    check_page(&elsewhere);
}

#[test]
fn one_evaluation_prints_one_object_that_fits_its_schema() {
    let home = Home::new(&TinyTask::default());
    let schema = Schema::named("eval");
    let lines = home.json(0, &["eval", "./task", "--data", "text", "--json"]);
    assert_eq!(lines.len(), 1);
    schema.check(&lines[0]).unwrap_or_else(|e| panic!("{e}\n{:#}", lines[0]));
    assert!(lines[0]["score"].as_f64().is_some_and(|bits| (0.5..8.5).contains(&bits)));
    // A candidate that does not compile is an outcome with a hint, and an exit code.
    std::fs::write(home.path("broken.rs"), "pub fn f() -> u32 { \"text\" }").unwrap();
    let lines = home.json(3, &["eval", "./task", "--data", "text", "--source", "broken.rs", "--json"]);
    schema.check(&lines[0]).unwrap_or_else(|e| panic!("{e}\n{:#}", lines[0]));
    assert_eq!(lines[0]["outcome"]["code"], "compile-error");
    assert_eq!(lines[0]["score"], Value::Null);
}

#[test]
fn the_benchmark_prints_one_object_that_fits_its_schema() {
    let home = Home::new(&TinyTask::default());
    let lines = home.json(0, &["bench", "sandbox", "--repeat", "2", "--json"]);
    assert_eq!(lines.len(), 1);
    Schema::named("bench").check(&lines[0]).unwrap_or_else(|e| panic!("{e}\n{:#}", lines[0]));
    let figures = lines[0]["figures"].as_array().unwrap();
    assert!(figures.iter().any(|f| f["name"] == "tax"), "{:#}", lines[0]);
}

#[test]
fn a_new_task_from_a_template_can_be_checked_scored_and_evolved() {
    let home = Home::new(&TinyTask::default());
    home.run(0, &["init", "my-task", "--template", "circles"]);
    let again = home.run(1, &["init", "my-task", "--template", "circles"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
    home.run(2, &["init", "other", "--template", "squares"]);

    let checked = home.json(0, &["check", "./my-task", "--json"]);
    assert_eq!((&checked[0]["task"], &checked[0]["ok"]), (&"my-task".into(), &true.into()));
    let scored = home.json(0, &["eval", "./my-task", "--json"]);
    Schema::named("eval").check(&scored[0]).unwrap_or_else(|e| panic!("{e}\n{:#}", scored[0]));
    // A published record for 26 circles is 2.635…: a valid packing cannot be far above it.
    assert!(scored[0]["score"].as_f64().is_some_and(|sum| (1.0..2.64).contains(&sum)), "{:#}", scored[0]);

    let run = home.command(&["run", "./my-task", "--generations", "1", "--evals", "8", "--json"]);
    let lines = json_lines(&finish(run, 0));
    let finished = lines.last().unwrap();
    assert_eq!(finished["event"], "finished");
    assert_eq!(finished["generations"], 1);
    check_page(&home.path("runs/my-task-1/report.html"));
}
