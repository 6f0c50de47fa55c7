use super::*;
use crate::fake::{self, new_run, small_search};

#[test]
fn a_run_is_created_once_and_reopened_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("runs/first");
    let folder = new_run(&path, small_search(), 7);
    let secret = folder.probe_secret().unwrap();
    let (config, digest) = (folder.config().clone(), folder.config_digest().clone());
    assert_eq!(folder.source(&folder.baseline()).unwrap(), "bias = 0.5\n");
    drop(folder);
    let task = fake::task(small_search());
    let new = NewRun { task: &task, source: "", seed: 8, identity: "fake", data: None };
    assert!(matches!(RunFolder::create(&path, &new), Err(EngineError::RunExists { .. })));
    let folder = RunFolder::open(&path).unwrap();
    assert_eq!(folder.probe_secret().unwrap(), secret);
    assert_eq!((folder.config(), folder.config_digest()), (&config, &digest));
}

#[test]
fn one_engine_at_a_time_and_readers_beside_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 7);
    assert!(matches!(RunFolder::open(home.path()), Err(EngineError::Locked { .. })));
    assert!(RunFolder::open_to_read(home.path()).unwrap().archive().candidates().unwrap().is_empty());
    drop(folder);
    RunFolder::open(home.path()).unwrap();
}

#[test]
fn what_is_no_run_or_of_another_version_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let missing = home.path().join("missing");
    assert!(matches!(RunFolder::open(&missing), Err(EngineError::NotARun { .. })));
    let foreign = home.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.tex"), "x").unwrap();
    let task = fake::task(small_search());
    let new = NewRun { task: &task, source: "", seed: 8, identity: "fake", data: None };
    assert!(matches!(RunFolder::create(&foreign, &new), Err(EngineError::FolderNotEmpty { .. })));
    let huge = NewRun { seed: u64::MAX, ..new.clone() };
    assert!(matches!(RunFolder::create(&missing, &huge), Err(EngineError::SeedTooLarge(_))));

    let run = home.path().join("run");
    drop(new_run(&run, small_search(), 7));
    let file = run.join("run.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("schema = 1", "schema = 2\nnew_field = true")).unwrap();
    let error = RunFolder::open(&run).unwrap_err();
    assert!(matches!(error, EngineError::OtherVersion { found: 2, expected: 1, .. }), "{error}");
    std::fs::write(&file, "garbage").unwrap();
    assert!(matches!(RunFolder::open(&run), Err(EngineError::BadRunConfig { .. })));
}

#[test]
fn a_creation_that_was_killed_can_be_repeated() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run");
    drop(new_run(&path, small_search(), 7));
    // Killed before the rename of run.toml, and before the tables were made.
    std::fs::rename(path.join("run.toml"), path.join(".partial-abc")).unwrap();
    std::fs::write(path.join("terrarium.db"), "").unwrap();
    assert!(matches!(RunFolder::open(&path), Err(EngineError::NotARun { .. })));
    let folder = new_run(&path, small_search(), 9);
    assert_eq!(folder.config().seed, 9);
}
