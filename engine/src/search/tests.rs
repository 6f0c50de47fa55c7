//! The loop over a fake evaluator: does it find what there is, keep nothing
//! that is not there, and record the same whatever happens to the process?

mod agents;
mod durability;

use super::*;
use crate::fake::{self, Quadratic, Tell, new_run, run, run_until, small_search};
use crate::ledger::Ruling;
use crate::observer::Unobserved;
use std::collections::BTreeSet;
use std::sync::Mutex;

fn finished(end: RunEnd) -> RunSummary {
    match end {
        RunEnd::Finished(summary) => summary,
        RunEnd::Drained => panic!("the run was drained"),
    }
}

#[test]
fn a_gain_that_is_there_is_found_and_confirmed_on_the_final_split() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), SearchConfig { generations: 8, ..small_search() }, 1);
    let evaluator = Quadratic::default();
    let summary = finished(run(&folder, &evaluator, 2, &Unobserved).unwrap());
    let comparison = &summary.comparison;
    assert!(comparison.beats_noise, "{comparison:?}");
    // The baseline scores 0.99; most of the quadratic's part is won.
    assert!(comparison.gain.as_ref().unwrap().mean > 0.3, "{comparison:?}");
    assert_eq!(comparison.baseline.seeds.len(), 3);

    let archive = folder.archive();
    let seeds_of = |split: Split| -> BTreeSet<u64> {
        let all = archive.evaluations().unwrap();
        all.into_iter().filter(|r| r.key.split == split).map(|r| r.key.seed).collect()
    };
    assert!(seeds_of(Split::Selection).is_disjoint(&seeds_of(Split::Final)));
    assert_eq!(archive.incumbent().unwrap().as_ref(), Some(&summary.best));
    let lineage = archive.lineage(&summary.best).unwrap();
    assert_eq!(lineage.last().map(|c| c.id.clone()), Some(folder.baseline().id));
    let codes: Vec<String> = archive.outcomes().unwrap().into_iter().map(|o| o.code).collect();
    assert!(
        codes.contains(&"compile-error".to_owned()) && codes.contains(&"rejected".to_owned()),
        "{codes:?}"
    );
    assert_eq!(archive.final_comparison().unwrap().as_ref(), Some(comparison));
    let curve = archive.best_so_far().unwrap();
    assert_eq!(curve.len() as u64, summary.candidates);
    assert!(curve.last().unwrap().best.unwrap() < curve[0].best.unwrap() - 0.2);
    assert_eq!(
        archive.totals().unwrap().selection_evaluations + archive.totals().unwrap().final_evaluations,
        summary.evaluations
    );
    assert_eq!(archive.find(&summary.best.as_str()[..8]).unwrap().map(|c| c.id), Some(summary.best));
}

#[test]
fn each_new_incumbent_is_judged_on_seeds_that_it_did_not_win_by() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), SearchConfig { generations: 8, ..small_search() }, 1);
    finished(run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap());
    let mut reign_seeds: Vec<u64> = Vec::new();
    let mut crowned = 0;
    for event in folder.archive().events().unwrap() {
        if let Event::Crowned { reign, .. } = event {
            crowned += 1;
            reign_seeds.extend((0..8).map(|i| Reign { member: 0, number: reign }.seed(1, i)));
        }
    }
    assert!(crowned >= 2, "the test needs two successions, had {crowned}");
    let distinct: BTreeSet<u64> = reign_seeds.iter().copied().collect();
    assert_eq!(distinct.len(), reign_seeds.len());
}

#[test]
fn pure_noise_keeps_nothing_in_nineteen_of_twenty_runs() {
    let kept = (0..40)
        .filter(|seed| {
            let home = tempfile::tempdir().unwrap();
            let search = SearchConfig { generations: 4, final_seeds: 2, ..small_search() };
            let folder = new_run(home.path(), search, *seed);
            let evaluator = Quadratic { null: true, noise: 0.1, ..Quadratic::default() };
            let summary = finished(run(&folder, &evaluator, 1, &Unobserved).unwrap());
            summary.best != folder.baseline().id
        })
        .count();
    assert!(kept <= 2, "{kept} of 40 runs on pure noise kept something");
}

#[test]
fn without_noise_strictly_better_is_kept_and_equal_is_not() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 5);
    let summary =
        finished(run(&folder, &Quadratic { noise: 0.0, ..Quadratic::default() }, 2, &Unobserved).unwrap());
    assert_eq!(summary.noise, 0.0);
    assert!(summary.comparison.beats_noise);
    assert_eq!((summary.kept, &summary.best), (summary.best.clone(), &summary.comparison.best.candidate));
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 5);
    let flat = Quadratic { noise: 0.0, null: true, ..Quadratic::default() };
    let summary = finished(run(&folder, &flat, 2, &Unobserved).unwrap());
    assert_eq!(summary.best, folder.baseline().id);
    assert!(!summary.comparison.beats_noise);
    assert_eq!(summary.comparison.gain, None);
}

#[test]
fn an_evaluation_budget_is_kept_to_the_last_one() {
    for evals in [4, 5, 9, 17, 30] {
        let home = tempfile::tempdir().unwrap();
        let folder = new_run(home.path(), SearchConfig { evals: Some(evals), ..small_search() }, 2);
        let summary = finished(run(&folder, &Quadratic::default(), 3, &Unobserved).unwrap());
        let used = folder.archive().totals().unwrap().selection_evaluations;
        assert!(used <= u64::from(evals).max(4), "{used} of {evals}");
        assert_eq!(summary.stopped, Some(StopReason::Evals), "{evals}");
    }
}

#[test]
fn a_wall_clock_stop_is_recorded_and_repeated_on_resume() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 2);
    let stop = AtomicBool::new(false);
    let evaluator = Quadratic::default();
    let run_for = |wall| run_until(&folder_of(home.path()), &evaluator, 2, &Unobserved, &stop, wall);
    drop(folder);
    let summary = finished(run_for(Some(Duration::ZERO)).unwrap());
    assert_eq!((summary.stopped, summary.generations), (Some(StopReason::Wall), 0));
    // Now with all the time in the world: the record stands.
    assert_eq!(finished(run_for(None).unwrap()), summary);
}

fn folder_of(path: &std::path::Path) -> RunFolder {
    RunFolder::open(path).unwrap()
}

#[test]
fn failures_are_recorded_as_data_for_proposers() {
    struct Nosy<'a>(&'a Mutex<BTreeSet<String>>);
    impl Proposer for Nosy<'_> {
        fn name(&self) -> &'static str {
            "nosy"
        }
        fn propose(
            &self,
            history: &crate::proposer::History<'_>,
            parent: &crate::proposer::HistoryEntry,
            seed: u64,
        ) -> Option<crate::proposer::Proposal> {
            for entry in history.entries {
                let told = entry.diagnostics.is_some();
                assert_eq!(told, entry.score.is_none(), "{entry:?}");
                assert!(entry.seeds > 0);
                self.0.lock().unwrap().insert(entry.outcome_code.clone());
            }
            fake::Edit.propose(history, parent, seed)
        }
    }
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 1);
    let seen = Mutex::default();
    let search = Search {
        folder: &folder,
        evaluator: &Quadratic::default(),
        proposers: &[&Nosy(&seen)],
        agents: &[],
        guide: "",
        strategy: None,
        admit: &fake::admit,
        observer: &Unobserved,
        workers: 2,
        stop: &AtomicBool::new(false),
        wall: None,
    };
    search.run().unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(["finished", "compile-error", "rejected"].iter().all(|code| seen.contains(*code)), "{seen:?}");
    let rulings: BTreeSet<Ruling> = folder.archive().decisions().unwrap().iter().map(|d| d.ruling).collect();
    assert!(rulings.contains(&Ruling::Failed));
}

#[test]
fn a_baseline_that_fails_and_a_proposer_that_is_not_there_are_told() {
    let home = tempfile::tempdir().unwrap();
    let task = fake::task(small_search());
    let new = crate::run::NewRun { task: &task, source: "broken", seed: 0, identity: "fake", data: None };
    let folder = RunFolder::create(home.path(), &new).unwrap();
    let error = run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap_err();
    assert!(matches!(error, EngineError::BaselineFailed { .. }), "{error}");

    let home = tempfile::tempdir().unwrap();
    let mut search = small_search();
    search.proposers.insert("oracle".into(), 1.0);
    let folder = new_run(home.path(), search, 0);
    let error = run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap_err();
    assert_eq!(error.hint(), "the proposers are: walk, edit");
}

#[test]
fn a_run_made_with_another_toolchain_is_not_continued() {
    let home = tempfile::tempdir().unwrap();
    let task = fake::task(small_search());
    let new = crate::run::NewRun { task: &task, source: "", seed: 0, identity: "other", data: None };
    let folder = RunFolder::create(home.path(), &new).unwrap();
    let error = run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap_err();
    assert!(matches!(error, EngineError::OtherIdentity { .. }), "{error}");
}

#[test]
fn the_observer_is_told_of_every_evaluation_and_decision() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 1);
    let counts = Mutex::new((0u64, 0u64, 0u64));
    let watch = Tell(|event: &RunEvent| {
        let mut counts = counts.lock().unwrap();
        match event {
            RunEvent::EvaluationStarted { .. } => counts.0 += 1,
            RunEvent::EvaluationFinished { .. } => counts.1 += 1,
            RunEvent::Decided { .. } => counts.2 += 1,
            _ => {}
        }
    });
    let summary = finished(run(&folder, &Quadratic::default(), 4, &watch).unwrap());
    let counts = counts.into_inner().unwrap();
    assert_eq!(counts, (summary.evaluations, summary.evaluations, summary.candidates - 1));
}
