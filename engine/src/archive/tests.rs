use super::*;
use crate::evaluate::{BuildFacts, Evaluated, Split};
use crate::ids::{BlobId, CandidateId};
use terrarium_sandbox::{KnobRange, KnobScale, KnobValue, Knobs, Metric, Outcome, Phase, Timing, Usage};

fn candidate(text: &str) -> Candidate {
    let mut candidate = Candidate::baseline(BlobId::of(text.as_bytes()));
    candidate.knobs = Knobs::from([("lr".into(), KnobValue::Number(0.1 + 0.2))]);
    candidate.id = CandidateId::of(&candidate.source, &candidate.knobs);
    candidate
}

fn evaluation(candidate: &Candidate, seed: u64, score: f64) -> EvaluationRecord {
    let metric = |value| Metric { name: "loss".into(), step: 1, value };
    EvaluationRecord {
        key: EvaluationKey { candidate: candidate.id.clone(), split: Split::Selection, seed },
        result: Evaluated {
            outcome: Outcome::Finished,
            score: Some(score),
            usage: Usage {
                fuel: Some(u64::MAX),
                device_profile: vec![("matmul".into(), 7)],
                ..Usage::default()
            },
            knobs: vec![(
                "lr".into(),
                KnobRange::Number {
                    default: 1e-3,
                    low: 1e-300,
                    high: 0.1 + 0.2,
                    scale: KnobScale::Logarithmic,
                },
            )],
            metrics: [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, -0.0].map(metric).to_vec(),
            log: "a \u{1f331} log".into(),
            timing: Timing { total_us: 12, ..Timing::default() },
        },
        build: Some(BuildFacts { component: "c".into(), ..BuildFacts::default() }),
        finished_unix_ms: 1,
    }
}

fn proposed(candidate: &Candidate) -> Event {
    Event::Proposed { index: 0, candidate: candidate.clone(), island: 0 }
}

#[test]
fn evaluations_come_back_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("terrarium.db");
    let archive = Archive::open(&path).unwrap();
    let candidate = candidate("x");
    archive.append(&[proposed(&candidate)]).unwrap();
    let scores = [0.1 + 0.2, 5e-324, f64::MAX, -1.0 / 3.0, 0.0, 3.0];
    for (seed, score) in (0..).zip(scores) {
        archive.record(evaluation(&candidate, seed, score).into()).unwrap();
    }
    let failed = EvaluationRecord {
        result: Evaluated::failed(Outcome::Deadline { phase: Phase::Train }),
        ..evaluation(&candidate, (1 << 53) - 1, 0.0)
    };
    archive.record(failed.clone().into()).unwrap();
    drop(archive);
    let archive = Archive::open_read_only(&path).unwrap();
    for (seed, score) in (0..).zip(scores) {
        let expected = evaluation(&candidate, seed, score);
        let found = archive.evaluation(&expected.key).unwrap().unwrap();
        assert_eq!(found.digest(), expected.digest(), "{score}");
        assert_eq!(found.result.score.map(f64::to_bits), Some(score.to_bits()));
        assert_eq!(found.result.timing, expected.result.timing);
        assert_eq!(found.build, expected.build);
    }
    assert_eq!(archive.evaluation(&failed.key).unwrap(), Some(failed));
    assert_eq!(archive.candidates().unwrap(), [candidate]);
}

#[test]
fn recorded_events_are_met_again_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("terrarium.db");
    let (a, b) = (candidate("a"), candidate("b"));
    let archive = Archive::open(&path).unwrap();
    archive.append(&[proposed(&a), proposed(&b)]).unwrap();
    let head = archive.head();
    drop(archive);
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.next_recorded().unwrap(), Some(proposed(&a)));
    archive.append(&[proposed(&a)]).unwrap();
    let error = archive.append(&[proposed(&candidate("c"))]).unwrap_err();
    assert!(matches!(error, EngineError::LedgerMismatch { seq: 1, .. }), "{error}");
    // The refused event left no trace: the right one still fits.
    archive.append(&[proposed(&b)]).unwrap();
    assert_eq!(archive.head(), head);
    assert_eq!(archive.next_recorded().unwrap(), None);
    assert_eq!(archive.candidates().unwrap().len(), 2);
}

#[test]
fn other_versions_and_other_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("terrarium.db");
    drop(Archive::open(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Archive::open(&path).unwrap_err();
    assert!(matches!(error, EngineError::OtherVersion { found: 99, expected: 3, .. }), "{error}");
    assert!(error.hint().contains("version of terrarium"));

    let other = folder.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Archive::open(&other), Err(EngineError::DamagedArchive { .. })));

    let text = folder.path().join("text.db");
    std::fs::write(&text, "this is not a database, but it is long enough to have a header ".repeat(40))
        .unwrap();
    let error = Archive::open(&text).unwrap_err();
    assert!(matches!(error, EngineError::DamagedArchive { .. }), "{error}");
    assert!(matches!(
        Archive::open_read_only(&folder.path().join("none.db")),
        Err(EngineError::NotARun { .. })
    ));
}

#[test]
fn a_candidate_row_that_does_not_hash_to_its_name_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("terrarium.db");
    let archive = Archive::open(&path).unwrap();
    archive.append(&[proposed(&candidate("a"))]).unwrap();
    archive.flush().unwrap();
    rusqlite::Connection::open(&path).unwrap().execute("UPDATE candidates SET knobs = '{}'", []).unwrap();
    assert!(matches!(archive.candidates(), Err(EngineError::DamagedArchive { .. })));
}
