use super::*;

const GOOD: &str = r#"
[task]
name = "tiny"
title = "A tiny model"
world = "trainer"
metric = { name = "val_bpb", direction = "minimize" }
candidate = "candidate/lib.rs"

[budget]
device_fuel = 1_000_000

[evaluation]
context = 64
rows = 8
windows = 32

[data]
kind = "corpus"

[search]
generations = 3
alpha = 0.05
"#;

fn message(text: &str) -> (String, String) {
    let error = Task::parse(text, "task.toml").expect_err("should be refused");
    (error.to_string(), error.hint())
}

#[test]
fn a_good_task_gets_defaults_and_survives_a_round_trip() {
    let task = Task::parse(GOOD, "task.toml").unwrap();
    assert_eq!(task.budget.device_fuel, 1_000_000);
    assert_eq!(task.search.generations, 3);
    assert_eq!(task.search.generation_size, SearchConfig::default().generation_size);
    let again = Task::parse(&toml::to_string(&task).unwrap(), "again").unwrap();
    assert_eq!(again, task);
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let (what, hint) = message(&GOOD.replace("windows = 32", "windoes = 32"));
    assert!(what.starts_with("task.toml:15:1: unknown field `windoes`"), "{what}");
    assert!(hint.contains("spelling"), "{hint}");
}

#[test]
fn numbers_that_make_no_sense_are_refused_where_they_stand() {
    for (old, new, place) in [
        ("alpha = 0.05", "alpha = nan", "task.toml:22:9"),
        ("alpha = 0.05", "alpha = -0.1", "task.toml:22:9"),
        ("generations = 3", "generations = 0", "task.toml:21:15"),
        ("generations = 3", "generations = -3", "task.toml:21:15"),
        ("generations = 3", "generations = inf", "task.toml:21:15"),
        ("device_fuel = 1_000_000", "device_fuel = 0", "task.toml:10:15"),
        ("device_fuel = 1_000_000", "device_fuel = nan", "task.toml:10:15"),
        ("context = 64", "context = 0", "task.toml:13:11"),
        ("alpha = 0.05", "proposers = { knobs = nan }", "task.toml:22:1"),
        ("name = \"tiny\"", "name = \"Ti ny\"", "task.toml:3:8"),
        ("\"candidate/lib.rs\"", "\"../lib.rs\"", "task.toml:7:13"),
        ("\"candidate/lib.rs\"", "\"/etc/passwd\"", "task.toml:7:13"),
    ] {
        let (what, hint) = message(&GOOD.replace(old, new));
        assert!(what.starts_with(place), "{new}: {what}");
        assert!(!hint.is_empty(), "{new}");
    }
}

#[test]
fn each_world_asks_for_its_own_sections() {
    let (what, _) = message(&GOOD.replace("world = \"trainer\"", "world = \"function\""));
    assert!(what.contains("has no use for a section [evaluation]"), "{what}");
    let (what, _) = message(&GOOD.replace("[data]\nkind = \"corpus\"", ""));
    assert!(what.contains("needs a section [data]"), "{what}");
    let circles = r#"
[task]
name = "circles"
title = "26 circles"
world = "function"
metric = { name = "sum_of_radii", direction = "maximize" }
candidate = "candidate/lib.rs"
[evaluator]
builtin = "circles"
n = 26
"#;
    let config = crate::scoring::circles::Circles { n: 26, container: Default::default() };
    assert_eq!(Task::parse(circles, "c").unwrap().evaluator, Some(EvaluatorConfig::Circles(config)));
    let (what, _) = message(&circles.replace("n = 26", "n = 0"));
    assert!(what.contains("n = 0 is out of range"), "{what}");
    assert!(Task::parse(&circles.replace("n = 26", "m = 26"), "c").is_err());
}

#[test]
fn text_that_is_not_toml_is_an_error_with_a_place() {
    let (what, _) = message("[task\nname=");
    assert!(what.starts_with("task.toml:1:"), "{what}");
    message("");
    message("\u{0}\u{ffff}");
}

#[test]
fn a_task_is_found_by_template_name_or_by_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("tiny");
    std::fs::create_dir_all(folder.join("candidate")).unwrap();
    std::fs::write(folder.join("task.toml"), GOOD).unwrap();
    let missing = load("tiny", root.path()).unwrap_err();
    assert!(missing.to_string().contains("lib.rs"), "{missing}");
    std::fs::write(folder.join("candidate/lib.rs"), "fn main() {}").unwrap();
    assert_eq!(load("tiny", root.path()).unwrap().source, "fn main() {}");
    let by_path = load(folder.to_str().unwrap(), Path::new("/nowhere")).unwrap();
    assert_eq!(by_path.task.header.name, "tiny");
    let error = load("nonsense", root.path()).unwrap_err();
    assert!(error.hint().contains("templates: tiny"), "{}", error.hint());
    std::fs::write(folder.join("candidate/lib.rs"), vec![b'x'; 1 + MAX_TEXT_BYTES as usize]).unwrap();
    assert!(matches!(load("tiny", root.path()), Err(TaskError::TooLarge { .. })));
    std::fs::write(folder.join("candidate/lib.rs"), [0xff, 0xfe]).unwrap();
    assert!(matches!(load("tiny", root.path()), Err(TaskError::Unreadable { .. })));
}
