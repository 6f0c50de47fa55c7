//! Is a record what it claims to be? The ledger's chain, the blobs, and the
//! evaluations, done again and compared to the last bit.

use crate::candidate::Candidate;
use crate::error::EngineError;
use crate::evaluate::{BuildFailure, Evaluate, Evaluated, EvaluationKey, EvaluationRecord};
use crate::ids::{BlobId, CandidateId};
use crate::ledger::{Event, first_break};
use crate::run::RunFolder;
use serde::Serialize;
use std::collections::HashMap;
use terrarium_sandbox::Outcome;

/// Which evaluations are done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// None: only ledger, blobs and records are checked.
    Nothing,
    /// Those of the winner.
    Winner,
    /// Those of one candidate.
    Candidate(CandidateId),
    /// All.
    All,
}

/// How one repetition compares with its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// Every deterministic field is equal to the last bit.
    Equal,
    /// The score, the outcome or another field differs.
    Different,
    /// It ended by the clock or by a signal, which cannot be repeated.
    NotRepeatable,
}

/// One evaluation, done again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repetition {
    /// The candidate.
    pub candidate: CandidateId,
    /// The seed.
    pub seed: u64,
    /// `selection` or `final`.
    pub split: &'static str,
    /// The recorded score.
    pub recorded: Option<f64>,
    /// The score now.
    pub repeated: Option<f64>,
    /// How they compare.
    pub agreement: Agreement,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verification {
    /// Events in the ledger.
    pub events: u64,
    /// Blobs whose bytes fit their names.
    pub blobs: u64,
    /// Evaluations recorded.
    pub evaluations: u64,
    /// Evaluations done again.
    pub repetitions: Vec<Repetition>,
    /// Everything that is wrong, one line each.
    pub faults: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Checks a run. What is wrong is found and listed, not returned as an
/// error; errors are of the host, or of a database that cannot be read.
pub fn verify<E: Evaluate>(
    folder: &RunFolder,
    evaluator: &E,
    which: &Which,
    tell: &mut dyn FnMut(&Repetition),
) -> Result<Verification, EngineError> {
    let mut found = Verification::default();
    check_ledger(folder, &mut found)?;
    let candidates = check_blobs(folder, &mut found)?;
    let records = check_records(folder, &mut found)?;
    let winner = match which {
        Which::Winner => folder.archive().incumbent()?,
        _ => None,
    };
    let chosen = |id: &CandidateId| match which {
        Which::Nothing => false,
        Which::Winner => winner.as_ref() == Some(id),
        Which::Candidate(one) => one == id,
        Which::All => true,
    };
    let by_id: HashMap<_, _> = candidates.iter().map(|c| (&c.id, c)).collect();
    for record in records.iter().filter(|record| chosen(&record.key.candidate)) {
        if let Some(candidate) = by_id.get(&record.key.candidate) {
            repeat(folder, evaluator, candidate, record, &mut found, tell)?;
        }
    }
    Ok(found)
}

fn check_ledger(folder: &RunFolder, found: &mut Verification) -> Result<(), EngineError> {
    let entries = folder.archive().ledger()?;
    found.events = entries.len() as u64;
    if let Some((seq, what)) = first_break(&entries) {
        found.faults.push(format!("the ledger is broken at event {seq}: {what}"));
    }
    let first = entries.first().and_then(|entry| serde_json::from_str(&entry.text).ok());
    if let Some(Event::Started { config, .. }) = first
        && config != *folder.config_digest()
    {
        found.faults.push("run.toml is not the one that the run started with".into());
    }
    Ok(())
}

fn check_blobs(folder: &RunFolder, found: &mut Verification) -> Result<Vec<Candidate>, EngineError> {
    let candidates = folder.archive().candidates()?;
    let mut sources: Vec<&BlobId> = candidates.iter().map(|candidate| &candidate.source).collect();
    sources.sort();
    sources.dedup();
    for id in sources {
        match folder.blobs().get(id) {
            Ok(_) => found.blobs += 1,
            Err(error) => found.faults.push(error.to_string()),
        }
    }
    Ok(candidates)
}

/// Whether the evaluations' rows are those that the ledger speaks of.
fn check_records(folder: &RunFolder, found: &mut Verification) -> Result<Vec<EvaluationRecord>, EngineError> {
    let records = folder.archive().evaluations()?;
    found.evaluations = records.len() as u64;
    let by_key: HashMap<&EvaluationKey, &EvaluationRecord> = records.iter().map(|r| (&r.key, r)).collect();
    for entry in folder.archive().ledger()? {
        let Ok(Event::Evaluated { candidate, split, seed, digest, .. }) = serde_json::from_str(&entry.text)
        else {
            continue;
        };
        let key = EvaluationKey { candidate, split, seed };
        match by_key.get(&key) {
            None => found.faults.push(format!("the evaluation of {key} (event {}) is missing", entry.seq)),
            Some(record) if record.digest() != digest => {
                found.faults.push(format!("the record of {key} is not what event {} says", entry.seq));
            }
            Some(_) => {}
        }
    }
    Ok(records)
}

fn repeat<E: Evaluate>(
    folder: &RunFolder,
    evaluator: &E,
    candidate: &Candidate,
    record: &EvaluationRecord,
    found: &mut Verification,
    tell: &mut dyn FnMut(&Repetition),
) -> Result<(), EngineError> {
    // A corrupt source is a fault that is listed already.
    let Ok(source) = folder.source(candidate) else {
        return Ok(());
    };
    // Refused by its text, not by its behaviour: nothing was run.
    if matches!(record.result.outcome, Outcome::Rejected { .. }) && record.build.is_none() {
        return Ok(());
    }
    let result = match evaluator.build(&source) {
        Ok(built) => evaluator.evaluate(&built, &candidate.knobs, record.key.seed, record.key.split)?,
        Err(BuildFailure::Candidate(outcome)) => Evaluated::failed(outcome),
        Err(BuildFailure::Host(error)) => return Err(error.into()),
    };
    let again = EvaluationRecord {
        key: record.key.clone(),
        result: result.normalised(),
        build: None,
        finished_unix_ms: 0,
    };
    let by_the_clock = |o: &Outcome| {
        matches!(o, Outcome::Deadline { .. } | Outcome::WorkerDied { .. } | Outcome::DeviceLost { .. })
    };
    let agreement = if again.digest() == record.digest() {
        Agreement::Equal
    } else if by_the_clock(&record.result.outcome) || by_the_clock(&again.result.outcome) {
        Agreement::NotRepeatable
    } else {
        Agreement::Different
    };
    if agreement == Agreement::Different {
        found.faults.push(difference(record, &again));
    }
    let repetition = Repetition {
        candidate: candidate.id.clone(),
        seed: record.key.seed,
        split: record.key.split.name(),
        recorded: record.result.score,
        repeated: again.result.score,
        agreement,
    };
    tell(&repetition);
    found.repetitions.push(repetition);
    Ok(())
}

fn difference(record: &EvaluationRecord, again: &EvaluationRecord) -> String {
    let (old, new) = (&record.result, &again.result);
    let what = if old.outcome != new.outcome {
        format!("ended `{}`, now `{}`", old.outcome, new.outcome)
    } else if old.score != new.score {
        format!("scored {:?}, now {:?}", old.score, new.score)
    } else if old.usage != new.usage {
        "has the same score but used other resources".to_owned()
    } else {
        "has the same score but other knobs, metrics or log".to_owned()
    };
    format!("{} {what}", record.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Quadratic, new_run, run, small_search};
    use crate::observer::Unobserved;

    fn finished_run() -> (tempfile::TempDir, RunFolder) {
        let home = tempfile::tempdir().unwrap();
        let folder = new_run(home.path(), small_search(), 1);
        run(&folder, &Quadratic::default(), 2, &Unobserved).unwrap();
        (home, folder)
    }

    fn check(folder: &RunFolder, evaluator: &Quadratic, which: &Which) -> Verification {
        verify(folder, evaluator, which, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_sound_run_repeats_to_the_last_bit() {
        let (_home, folder) = finished_run();
        let winner = check(&folder, &Quadratic::default(), &Which::Winner);
        assert!(winner.is_sound(), "{:?}", winner.faults);
        assert!(winner.repetitions.len() > 3);
        let all = check(&folder, &Quadratic::default(), &Which::All);
        assert!(all.is_sound(), "{:?}", all.faults);
        assert!(all.repetitions.len() > winner.repetitions.len());
        assert!(all.repetitions.iter().all(|r| r.agreement == Agreement::Equal));
        // Another machine, another score.
        let other = Quadratic { noise: 0.011, ..Quadratic::default() };
        let different = check(&folder, &other, &Which::Winner);
        assert_eq!(different.faults.len(), different.repetitions.len());
        assert!(different.faults[0].contains("scored"), "{:?}", different.faults);
    }

    #[test]
    fn tampering_is_listed_wherever_it_was_done() {
        let (home, folder) = finished_run();
        let alter = |sql: &str| {
            let database = rusqlite::Connection::open(home.path().join("terrarium.db")).unwrap();
            assert!(database.execute(sql, []).unwrap() > 0, "{sql}");
        };
        let faults = || check(&folder, &Quadratic::default(), &Which::Nothing).faults;
        assert_eq!(faults(), Vec::<String>::new());
        alter(
            "UPDATE evaluations SET score = 0.0 WHERE split = 'final' AND seed = (SELECT max(seed) FROM evaluations WHERE split = 'final')",
        );
        let told = faults();
        assert!(!told.is_empty() && told.iter().all(|f| f.contains("is not what event")), "{told:?}");
        alter("DELETE FROM evaluations WHERE split = 'final'");
        assert!(faults().iter().all(|f| f.contains("is missing")));
        alter("UPDATE ledger SET event = replace(event, 'kept', 'lost') WHERE kind = 'decided'");
        assert!(faults()[0].contains("the ledger is broken at event"));
        std::fs::write(folder.blobs().path(&folder.config().baseline), "bias = 9").unwrap();
        assert!(faults().iter().any(|f| f.contains("is corrupt")), "{:?}", faults());
        // A repetition that lacks its source is not made, and does not panic.
        let all = check(&folder, &Quadratic::default(), &Which::All);
        assert!(!all.is_sound());
    }
}
