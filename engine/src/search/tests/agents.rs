//! Proposers that cannot be asked twice, and runs repeated without them.

use super::*;
use crate::archive::Place;
use crate::candidate::Cost;
use crate::proposer::agent::{Agent, Brief, Budget, Desk, Draft, Refusal, Reply};
use crate::proposer::replay::{self, Replay};
use crate::proposer::{HistoryEntry, Proposal};
use std::sync::atomic::AtomicU64;

/// Answers something else each time it is asked; sometimes nothing.
#[derive(Default)]
pub(super) struct Moody {
    asked: AtomicU64,
    budget: Budget,
}

impl Agent for Moody {
    fn name(&self) -> &str {
        "moody"
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn ask(&self, brief: &Brief<'_>, desk: &dyn Desk) -> Result<Option<Reply>, EngineError> {
        let most = Cost { requests: 1, input_tokens: 100, output_tokens: 10, micros: 50 };
        if let Err(Refusal::Budget(what)) = desk.reserve(most) {
            return Ok(Some(Reply::none(what)));
        }
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        desk.settle(most, Cost { input_tokens: 60, ..most });
        let prompt = Some(desk.keep(&format!("prompt {number}"))?);
        let mut reply = Reply { model: "m".into(), prompt, ..Reply::default() };
        if number % 3 == 2 {
            reply.problem = "no idea".into();
        } else {
            let source = format!("{}bias = -0.0{number}\n", brief.parent.source);
            reply.draft = Some(Draft { source: Some(source), operator: "line".into(), ..Draft::default() });
        }
        Ok(Some(reply))
    }
}

pub(super) fn search_with(folder: &RunFolder, agents: &[&dyn Agent], workers: usize) -> RunSummary {
    watched_search_with(folder, agents, workers, &Unobserved)
}

pub(super) fn watched_search_with(
    folder: &RunFolder,
    agents: &[&dyn Agent],
    workers: usize,
    observer: &dyn RunObserver,
) -> RunSummary {
    let search = Search {
        folder,
        evaluator: &Quadratic::default(),
        proposers: &[&fake::Walk, &fake::Edit],
        agents,
        guide: "",
        strategy: None,
        admit: &fake::admit,
        observer,
        workers,
        stop: &AtomicBool::new(false),
        wall: None,
    };
    finished(search.run().unwrap())
}

#[test]
fn an_answer_is_recorded_before_it_is_used_and_never_asked_for_again() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 3);
    let moody = Moody::default();
    let first = search_with(&folder, &[&moody], 2);
    let asked = moody.asked.load(Ordering::SeqCst);
    assert!(asked >= 3, "the bandit asked {asked} times");
    // The same folder again: nothing is asked, everything is the same.
    let again = search_with(&folder, &[&Moody::default()], 1);
    assert_eq!(again.ledger_head, first.ledger_head);
    drop(folder);
    let folder = RunFolder::open(home.path()).unwrap();
    let other = Moody::default();
    assert_eq!(search_with(&folder, &[&other], 4).ledger_head, first.ledger_head);
    assert_eq!(other.asked.load(Ordering::SeqCst), 0);
    let of_agent = |c: &crate::candidate::Candidate| c.origin.proposer == "moody";
    let candidates = folder.archive().candidates().unwrap();
    let call = candidates.iter().find(|c| of_agent(c)).unwrap().origin.call.clone().unwrap();
    assert_eq!((call.cost.input_tokens, call.cost.micros), (60, 50));
    assert!(folder.blobs().text(&call.prompt).unwrap().starts_with("prompt"));
    assert!(folder.archive().events().unwrap().iter().any(|e| matches!(e, Event::Unused { .. })));
}

#[test]
fn a_budget_holds_over_interruptions_and_lost_calls_count_in_full() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 3);
    let budget = Budget { requests: Some(3), ..Budget::default() };
    // A call that was under way when a process died, in a later generation.
    let lost = Place { generation: 5, place: 9, proposer: "moody".into() };
    let most = Cost { requests: 2, ..Cost::default() };
    folder.archive().begin_call(&lost, &most).unwrap();
    let moody = Moody { budget, ..Moody::default() };
    search_with(&folder, &[&moody], 2);
    assert_eq!(moody.asked.load(Ordering::SeqCst), 1, "three requests, two of them lost");
    assert_eq!(folder.archive().spent("moody").unwrap().requests, 3);
}

#[test]
fn a_run_is_repeated_from_its_proposals_with_any_number_of_workers() {
    let home = tempfile::tempdir().unwrap();
    let original = new_run(&home.path().join("original"), small_search(), 3);
    search_with(&original, &[&Moody::default()], 2);
    let recorded = replay::of_run(&original).unwrap();
    let lines: Vec<String> = recorded.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
    let mut heads = BTreeSet::new();
    for workers in [1, 4] {
        let search = SearchConfig { proposers: [("replay".to_owned(), 1.0)].into(), ..small_search() };
        let folder = new_run(&home.path().join(workers.to_string()), search, 3);
        let replay = Replay::parse(&lines.join("\n"), "test").unwrap();
        heads.insert(search_with(&folder, &[&replay], workers).ledger_head);
        assert_eq!(folder.archive().candidates().unwrap(), original.archive().candidates().unwrap());
        assert_eq!(folder.archive().decisions().unwrap(), original.archive().decisions().unwrap());
    }
    assert_eq!(heads.len(), 1);
}

/// Out of reach for so many questions, then back.
struct Absent {
    questions: u64,
    asked: AtomicU64,
}

impl Agent for Absent {
    fn name(&self) -> &str {
        "absent"
    }

    fn ask(&self, brief: &Brief<'_>, _desk: &dyn Desk) -> Result<Option<Reply>, EngineError> {
        if self.asked.fetch_add(1, Ordering::SeqCst) < self.questions {
            return Ok(Some(Reply::none("nobody answers")));
        }
        let source = format!("{}bias = -0.0{}\n", brief.parent.source, brief.seed % 997);
        let draft = Draft { source: Some(source), operator: "line".into(), ..Draft::default() };
        Ok(Some(Reply { draft: Some(draft), ..Reply::default() }))
    }
}

#[test]
fn a_model_that_is_out_of_reach_for_a_while_does_not_end_the_run() {
    let search = SearchConfig { proposers: [("absent".to_owned(), 1.0)].into(), ..small_search() };
    for (generations_away, stopped) in [(2, None), (3, Some(StopReason::NoProposals))] {
        let home = tempfile::tempdir().unwrap();
        let folder = new_run(home.path(), search.clone(), 1);
        let questions = generations_away * u64::from(search.generation_size);
        let summary = search_with(&folder, &[&Absent { questions, asked: AtomicU64::default() }], 2);
        assert_eq!(summary.stopped, stopped, "{generations_away}");
        assert_eq!(summary.candidates > 1, stopped.is_none());
        let again = search_with(&folder, &[&Absent { questions: 0, asked: AtomicU64::default() }], 2);
        assert_eq!(again, summary, "the record stands");
    }
}

/// Proposes the baseline again, with another name for the same thing.
struct Copyist;

impl Proposer for Copyist {
    fn name(&self) -> &'static str {
        "copyist"
    }

    fn propose(
        &self,
        _history: &crate::proposer::History<'_>,
        parent: &HistoryEntry,
        seed: u64,
    ) -> Option<Proposal> {
        Some(Proposal {
            source: Some(format!("fn f{seed}(x{seed}: f32) -> f32 {{ x{seed} + 1.0 }} // {seed}")),
            knobs: parent.knobs.clone(),
            parent: parent.candidate.clone(),
            second_parent: None,
            origin: crate::candidate::Origin::new("copyist", "copy", String::new()),
        })
    }
}

#[test]
fn a_renamed_copy_is_evaluated_once() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(home.path(), small_search(), 1);
    let evaluator = Quadratic::default();
    let search = Search {
        folder: &folder,
        evaluator: &evaluator,
        proposers: &[&Copyist],
        agents: &[],
        guide: "",
        strategy: None,
        admit: &fake::admit,
        observer: &Unobserved,
        workers: 2,
        stop: &AtomicBool::new(false),
        wall: None,
    };
    let summary = finished(search.run().unwrap());
    assert_eq!((summary.candidates, summary.stopped), (2, Some(StopReason::NoProposals)));
    assert_eq!(evaluator.builds.load(Ordering::SeqCst), 2);
}

#[test]
fn a_null_task_keeps_nothing_in_twenty_of_twenty_runs_whatever_the_strategy() {
    use crate::task::StrategyKind;
    for strategy in [StrategyKind::Islands, StrategyKind::Random, StrategyKind::BestOfN] {
        for seed in 0..20 {
            let home = tempfile::tempdir().unwrap();
            // Of the default significance: a run errs with 1/800 at most.
            let SearchConfig { alpha, final_seeds, .. } = SearchConfig::default();
            let search = SearchConfig { strategy, alpha, generations: 6, final_seeds, ..small_search() };
            let folder = new_run(home.path(), search, seed);
            let evaluator = Quadratic { null: true, ..Quadratic::default() };
            let summary = finished(run(&folder, &evaluator, 2, &Unobserved).unwrap());
            assert_eq!(summary.kept, folder.baseline().id, "{strategy:?}, seed {seed}");
        }
    }
}

#[test]
fn rungs_thin_the_field_and_islands_migrate_and_are_reset() {
    use crate::task::RungConfig;
    let home = tempfile::tempdir().unwrap();
    let search = SearchConfig {
        generations: 24,
        generation_size: 6,
        islands: Some(3),
        migration_every: 4,
        patience: 2,
        rungs: vec![RungConfig { budget: 0.2, keep: 0.5 }],
        ..small_search()
    };
    let folder = new_run(home.path(), search.clone(), 4);
    let summary = finished(run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap());
    assert!(summary.comparison.beats_noise);
    let events = folder.archive().events().unwrap();
    let count = |what: &str| events.iter().filter(|e| e.kind() == what).count();
    assert!(count("migrated") >= 6 && count("reset") >= 1, "{} {}", count("migrated"), count("reset"));
    let islands: BTreeSet<u32> = events
        .iter()
        .filter_map(|e| if let Event::Proposed { island, .. } = e { Some(*island) } else { None })
        .collect();
    assert_eq!(islands.len(), 3);
    let evaluations = folder.archive().evaluations().unwrap();
    let on_rung = evaluations.iter().filter(|r| r.key.split == Split::Rung(0)).count();
    let first_seeds = folder.archive().decisions().unwrap().iter().filter(|d| !d.gains.is_empty()).count();
    assert!(on_rung > first_seeds + on_rung / 4, "{on_rung} on the rung, {first_seeds} in the race");
    drop(folder);
    // All of it again, from the record.
    let folder = RunFolder::open(home.path()).unwrap();
    assert_eq!(finished(run(&folder, &Quadratic::default(), 1, &Unobserved).unwrap()), summary);
}
