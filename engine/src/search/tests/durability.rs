//! Whatever stops the process, the record is that of an undisturbed run.

use super::agents::{Moody, search_with, watched_search_with};
use super::*;
use crate::evaluate::{EvaluationKey, EvaluationRecord};
use crate::ledger::LedgerEntry;
use crate::proposer::agent::{Agent, Brief, Desk, Reply};
use crate::proposer::replay::{self, Replay};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize};

/// Everything that must not depend on interruptions or on workers.
type Record = (Vec<LedgerEntry>, Vec<crate::candidate::Candidate>, Vec<(EvaluationKey, String)>);

fn record(folder: &RunFolder) -> Record {
    let archive = folder.archive();
    let evaluations = archive.evaluations().unwrap();
    let digested = |r: EvaluationRecord| (r.key.clone(), r.digest().to_string());
    (
        archive.ledger().unwrap(),
        archive.candidates().unwrap(),
        evaluations.into_iter().map(digested).collect(),
    )
}

fn undisturbed() -> Record {
    undisturbed_with(small_search())
}

fn undisturbed_with(search: SearchConfig) -> Record {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), search, 3);
    finished(run(&folder, &Quadratic::default(), 1, &Unobserved).unwrap());
    record(&folder)
}

/// Goes on to the end; returns how many evaluations that took.
fn resume(folder: &RunFolder) -> (RunSummary, u64) {
    let done = AtomicU64::new(0);
    let watch = Tell(|event: &RunEvent| {
        if let RunEvent::EvaluationStarted { .. } = event {
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    let summary = finished(run(folder, &Quadratic::default(), 2, &watch).unwrap());
    (summary, done.into_inner())
}

/// The folder's files as a killed process would leave them.
fn snapshot(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("blobs")).unwrap();
    for part in ["", "blobs"] {
        for entry in std::fs::read_dir(from.join(part)).unwrap() {
            let entry = entry.unwrap();
            // The shared index lives in memory and does not survive.
            if entry.path().is_file() && !entry.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(entry.path(), to.join(part).join(entry.file_name())).unwrap();
            }
        }
    }
}

#[test]
fn the_number_of_workers_changes_nothing_that_is_recorded() {
    let one = undisturbed();
    for (workers, jitter_ms) in [(2, 3), (4, 5)] {
        let home = tempfile::tempdir().unwrap();
        let folder = new_run(home.path(), small_search(), 3);
        let evaluator = Quadratic { jitter_ms, ..Quadratic::default() };
        finished(run(&folder, &evaluator, workers, &Unobserved).unwrap());
        assert!(record(&folder) == one, "{workers} workers recorded something else");
    }
}

#[test]
fn a_run_killed_at_any_event_resumes_to_the_same_record() {
    let search = SearchConfig { generations: 3, generation_size: 3, race_seeds: 4, ..small_search() };
    let expected = undisturbed_with(search.clone());
    let home = tempfile::tempdir().unwrap();
    let crashes = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), search, 3);
    // What a `kill -9` at this moment would leave, for every moment at which
    // something has just been acknowledged or is about to begin.
    let count = AtomicUsize::new(0);
    let lock = Mutex::new(());
    let watch = Tell(|_: &RunEvent| {
        let _one_at_a_time = lock.lock().unwrap();
        let at = count.fetch_add(1, Ordering::SeqCst);
        snapshot(home.path(), &crashes.path().join(at.to_string()));
    });
    finished(run(&folder, &Quadratic::default(), 1, &watch).unwrap());
    drop(folder);
    let crashes_made = count.into_inner();
    assert!(crashes_made > 50, "only {crashes_made} moments were tried");
    let mut acknowledged_before = 0;
    for at in 0..crashes_made {
        let folder = RunFolder::open(&crashes.path().join(at.to_string())).unwrap();
        let acknowledged = folder.archive().evaluation_count().unwrap();
        assert!(acknowledged >= acknowledged_before, "moment {at} lost an evaluation");
        acknowledged_before = acknowledged;
        let (summary, again) = resume(&folder);
        assert!(record(&folder) == expected, "killed at moment {at}, resumed to another record");
        assert_eq!(
            again,
            summary.evaluations - acknowledged,
            "moment {at} repeated an acknowledged evaluation"
        );
    }
}

/// A replay with a hook before and after each question.
struct Hooked<'a, F: Fn() + Sync>(&'a Replay, F);

impl<F: Fn() + Sync> Agent for Hooked<'_, F> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn comes_first(&self) -> bool {
        self.0.comes_first()
    }

    fn ask(&self, brief: &Brief<'_>, desk: &dyn Desk) -> Result<Option<Reply>, EngineError> {
        (self.1)();
        let reply = self.0.ask(brief, desk);
        (self.1)();
        reply
    }
}

#[test]
fn replayed_proposals_of_an_agent_survive_a_kill_at_any_event_or_question() {
    let home = tempfile::tempdir().unwrap();
    let proposers = [("moody".to_owned(), 2.0), ("edit".to_owned(), 1.0)].into();
    let search =
        SearchConfig { generations: 3, generation_size: 3, race_seeds: 4, proposers, ..small_search() };
    let original = new_run(&home.path().join("original"), search.clone(), 3);
    search_with(&original, &[&Moody::default()], 2);
    let lines: Vec<String> =
        replay::of_run(&original).unwrap().iter().map(|one| serde_json::to_string(one).unwrap()).collect();
    assert!(lines.iter().any(|line| line.contains("\"proposer\":\"moody\"")));
    let replay = Replay::parse(&lines.join("\n"), "test").unwrap();
    let search = SearchConfig { proposers: [("replay".to_owned(), 1.0)].into(), ..search };
    let calm = new_run(&home.path().join("calm"), search.clone(), 3);
    search_with(&calm, &[&replay], 1);
    let expected = record(&calm);

    let folder = new_run(&home.path().join("storm"), search, 3);
    let moments = Mutex::new(0);
    let moment = |at: usize| home.path().join(at.to_string());
    let snap = || {
        let mut moments = moments.lock().unwrap();
        snapshot(&home.path().join("storm"), &moment(*moments));
        *moments += 1;
    };
    watched_search_with(&folder, &[&Hooked(&replay, snap)], 1, &Tell(|_: &RunEvent| snap()));
    assert!(record(&folder) == expected);
    let moments = moments.into_inner().unwrap();
    assert!(moments > 50, "only {moments} moments were tried");
    for at in 0..moments {
        let folder = RunFolder::open(&moment(at)).unwrap();
        let acknowledged = folder.archive().evaluation_count().unwrap();
        let again = AtomicU64::new(0);
        let watch = Tell(|event: &RunEvent| {
            let new = matches!(event, RunEvent::EvaluationStarted { .. });
            again.fetch_add(u64::from(new), Ordering::Relaxed);
        });
        let summary = watched_search_with(&folder, &[&replay], 4, &watch);
        assert!(record(&folder) == expected, "killed at moment {at}, resumed to another record");
        assert_eq!(again.into_inner(), summary.evaluations - acknowledged, "moment {at}");
    }
}

#[test]
fn a_host_that_fails_at_any_evaluation_loses_nothing() {
    let expected = undisturbed();
    let total = expected.2.len() as u64;
    for fail_at in (0..total).step_by(3) {
        let home = tempfile::tempdir().unwrap();
        let folder = new_run(home.path(), small_search(), 3);
        let evaluator = Quadratic { fail_at, ..Quadratic::default() };
        match run(&folder, &evaluator, 2, &Unobserved) {
            Err(EngineError::Host { hint, .. }) => assert_eq!(hint, "stand it up"),
            // Refused candidates are recorded without being run.
            other => assert!(matches!(other, Ok(RunEnd::Finished(_))) && fail_at + 30 > total, "{other:?}"),
        }
        assert!(folder.archive().evaluation_count().unwrap() >= fail_at);
        drop(folder);
        let folder = RunFolder::open(home.path()).unwrap();
        finished(run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap());
        assert!(record(&folder) == expected, "failed at {fail_at}, resumed to another record");
    }
}

#[test]
fn a_drained_run_returns_soon_and_resumes() {
    let expected = undisturbed();
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 3);
    let stop = AtomicBool::new(false);
    let watch = Tell(|event: &RunEvent| {
        if let RunEvent::Generation { generation: 3, .. } = event {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let evaluator = Quadratic::default();
    assert_eq!(run_until(&folder, &evaluator, 2, &watch, &stop, None).unwrap(), RunEnd::Drained);
    assert!(record(&folder) != expected);
    // In the same process, on the same open folder.
    finished(run(&folder, &evaluator, 2, &Unobserved).unwrap());
    assert!(record(&folder) == expected);
}

#[test]
fn a_full_disk_is_told_and_what_was_acknowledged_is_kept() {
    let expected = undisturbed();
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 3);
    folder.archive().limit_pages(24);
    // Slow enough for several commits before the disk is full.
    let slow = Quadratic { jitter_ms: 20, ..Quadratic::default() };
    let error = run(&folder, &slow, 2, &Unobserved).unwrap_err();
    assert!(matches!(error, EngineError::DiskFull { .. }), "{error}");
    assert!(error.hint().contains("resume"));
    let kept = folder.archive().evaluation_count().unwrap();
    assert!(kept > 0);
    drop(folder);
    let folder = RunFolder::open(home.path()).unwrap();
    let (summary, again) = resume(&folder);
    assert!(record(&folder) == expected);
    assert_eq!(again, summary.evaluations - kept);
}

#[test]
fn a_record_that_was_altered_is_named_on_resume() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 3);
    finished(run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap());
    drop(folder);
    let alter = |sql: &str| {
        let database = rusqlite::Connection::open(home.path().join("terrarium.db")).unwrap();
        assert!(database.execute(sql, []).unwrap() > 0);
    };
    // A better score for one evaluation: its event no longer follows.
    alter("UPDATE evaluations SET score = score - 0.5 WHERE seed = (SELECT max(seed) FROM evaluations)");
    let folder = RunFolder::open(home.path()).unwrap();
    let error = run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap_err();
    assert!(matches!(error, EngineError::LedgerMismatch { .. }), "{error}");
    drop(folder);
    // An altered event breaks the chain before anything is run.
    alter("UPDATE ledger SET event = replace(event, '\"seed\":3', '\"seed\":4') WHERE seq = 0");
    let error = RunFolder::open(home.path()).unwrap_err();
    assert!(matches!(error, EngineError::LedgerBroken { seq: 0, .. }), "{error}");
}
