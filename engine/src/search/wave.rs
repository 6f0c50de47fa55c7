//! A wave: evaluations that do not depend on one another, done by threads.

use super::population::Population;
use super::{Halt, Search, stop_requested};
use crate::error::EngineError;
use crate::evaluate::{BuildFailure, Evaluate, Evaluated, EvaluationKey, EvaluationRecord, Split};
use crate::ids::BlobId;
use crate::ledger::Event;
use crate::observer::RunEvent;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use terrarium_sandbox::Outcome;

/// A record that the population and the bench both hold.
pub type Shared = Arc<EvaluationRecord>;

/// One evaluation to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Number of the candidate in the population.
    pub member: usize,
    /// The data.
    pub split: Split,
    /// The seed.
    pub seed: u64,
}

impl Job {
    pub fn selection(member: usize, seed: u64) -> Self {
        Self { member, split: Split::Selection, seed }
    }
}

/// A component that is built by the first job that needs it.
type Slot<B> = Arc<Mutex<Option<Arc<B>>>>;

/// Does evaluations, each once.
pub struct Bench<'a, 'b, E: Evaluate> {
    search: &'b Search<'a, E>,
    known: HashMap<EvaluationKey, Shared>,
    builds: Mutex<HashMap<BlobId, Slot<E::Built>>>,
    total: Duration,
    /// Evaluations that are not known to be on disk: nobody is told of them yet.
    untold: Mutex<Vec<RunEvent>>,
}

/// Components that are kept between generations.
const MOST_BUILDS: usize = 64;

/// An evaluation that takes longer is worth a commit of its own.
const SLOW: Duration = Duration::from_millis(5);

impl<'a, 'b, E: Evaluate> Bench<'a, 'b, E> {
    pub fn new(search: &'b Search<'a, E>) -> Self {
        Self {
            search,
            known: HashMap::new(),
            builds: Mutex::default(),
            total: Duration::ZERO,
            untold: Mutex::default(),
        }
    }

    /// Evaluations known so far.
    pub fn evaluations(&self) -> usize {
        self.known.len()
    }

    /// Mean wall-clock time of an evaluation.
    pub fn mean_evaluation(&self) -> Duration {
        self.total.checked_div(self.known.len().max(1) as u32).unwrap_or_default()
    }

    /// Lets go of components if they are many; the sandbox has a cache of its own.
    pub fn forget_builds(&self) {
        let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        if builds.len() > MOST_BUILDS {
            builds.clear();
        }
    }

    /// Sees to it that everything is on disk, and tells who was not told yet.
    pub fn flush(&self) -> Result<(), EngineError> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        self.search.folder.archive().flush()?;
        untold.drain(..).for_each(|event| self.search.observer.observe(&event));
        Ok(())
    }

    /// Does the jobs that are neither known nor recorded, and appends those
    /// that are new to this process to the ledger, in the order given.
    pub fn wave(&mut self, population: &Population, jobs: &[Job]) -> Result<Vec<Shared>, Halt> {
        let keys: Vec<EvaluationKey> = jobs.iter().map(|job| key(population, job)).collect();
        let archive = self.search.folder.archive();
        let mut found: Vec<OnceLock<Shared>> = Vec::with_capacity(jobs.len());
        let mut missing = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let record = match self.known.get(key) {
                Some(record) => Some(record.clone()),
                None => archive.evaluation(key)?.map(Arc::new),
            };
            match record {
                Some(record) => found.push(OnceLock::from(record)),
                None => {
                    missing.push(at);
                    found.push(OnceLock::new());
                }
            }
        }
        if !missing.is_empty() {
            let recorded = (jobs.len() - missing.len()) as u32;
            let evaluations = missing.len() as u32;
            self.search.observer.observe(&RunEvent::Wave { evaluations, recorded });
            if self.mean_evaluation() >= SLOW {
                self.flush()?;
            }
            let worked = self.work(population, jobs, &keys, &missing, &found);
            if worked.is_err() || stop_requested(self.search.stop) {
                self.flush()?;
            }
            worked?;
        }
        let records: Option<Vec<Shared>> = found.into_iter().map(OnceLock::into_inner).collect();
        // Only a drained wave leaves gaps.
        let records = records.ok_or(Halt::Drained)?;
        self.acknowledge(&records)?;
        Ok(records)
    }

    fn acknowledge(&mut self, records: &[Shared]) -> Result<(), Halt> {
        let mut told = HashSet::new();
        let fresh: Vec<&Shared> = records
            .iter()
            .filter(|record| !self.known.contains_key(&record.key) && told.insert(record.key.clone()))
            .collect();
        let events: Vec<Event> = fresh
            .iter()
            .map(|record| Event::Evaluated {
                candidate: record.key.candidate.clone(),
                split: record.key.split,
                seed: record.key.seed,
                outcome: record.result.outcome.code().to_owned(),
                score: record.result.score,
                digest: record.digest(),
            })
            .collect();
        self.search.folder.archive().append(&events)?;
        for record in fresh {
            self.total += Duration::from_micros(record.result.timing.total_us);
            self.known.insert(record.key.clone(), record.clone());
        }
        Ok(())
    }

    /// Hands the missing jobs to threads. The first failure of the host stops
    /// the rest; what is in flight is finished and recorded.
    fn work(
        &self,
        population: &Population,
        jobs: &[Job],
        keys: &[EvaluationKey],
        missing: &[usize],
        found: &[OnceLock<Shared>],
    ) -> Result<(), Halt> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let work = || -> Result<(), EngineError> {
            while !stop_requested(self.search.stop) && !failed.load(Ordering::Relaxed) {
                let Some(at) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                match self.evaluate(population, jobs[*at].member, &keys[*at]) {
                    Ok(record) => drop(found[*at].set(record)),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(())
        };
        let threads = self.search.workers.clamp(1, missing.len());
        let results: Vec<Result<(), EngineError>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let join = |handle: std::thread::ScopedJoinHandle<'_, _>| {
                handle.join().unwrap_or_else(|_| Err(panicked()))
            };
            handles.into_iter().map(join).collect()
        });
        results.into_iter().collect::<Result<(), EngineError>>().map_err(Halt::from)
    }

    fn evaluate(
        &self,
        population: &Population,
        member: usize,
        key: &EvaluationKey,
    ) -> Result<Shared, EngineError> {
        self.search.observer.observe(&RunEvent::evaluation_started(key));
        let candidate = population.candidate(member);
        let (result, build) = match population.refusal(member) {
            Some(reason) => (Evaluated::failed(Outcome::Rejected { reason: reason.to_owned() }), None),
            None => match self.built(&candidate.source, population.source(member)) {
                Ok(built) => {
                    let result =
                        self.search.evaluator.evaluate(&built, &candidate.knobs, key.seed, key.split)?;
                    (result, Some(self.search.evaluator.facts(&built)))
                }
                Err(BuildFailure::Candidate(outcome)) => (Evaluated::failed(outcome), None),
                Err(BuildFailure::Host(error)) => return Err(error.into()),
            },
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = EvaluationRecord {
            key: key.clone(),
            result: result.normalised(),
            build,
            finished_unix_ms: u64::try_from(now.as_millis()).unwrap_or(0),
        };
        let record = Arc::new(record);
        let finished = RunEvent::EvaluationFinished {
            candidate: key.candidate.clone(),
            seed: key.seed,
            split: key.split.name(),
            outcome: record.result.outcome.code(),
            score: record.result.score,
            evaluation_us: record.result.timing.total_us,
        };
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.push(finished);
        if self.search.folder.archive().record(record.clone())? {
            untold.drain(..).for_each(|event| self.search.observer.observe(&event));
        }
        drop(untold);
        Ok(record)
    }

    /// The component of a source: jobs that share it wait for one build.
    fn built(&self, id: &BlobId, source: &str) -> Result<Arc<E::Built>, BuildFailure> {
        let slot = {
            let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
            builds.entry(id.clone()).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = &*slot {
            return Ok(built.clone());
        }
        let built = Arc::new(self.search.evaluator.build(source)?);
        *slot = Some(built.clone());
        Ok(built)
    }
}

fn key(population: &Population, job: &Job) -> EvaluationKey {
    EvaluationKey { candidate: population.id(job.member), split: job.split, seed: job.seed }
}

pub fn panicked() -> EngineError {
    EngineError::Host {
        message: "an evaluation thread panicked".into(),
        hint: "this is a defect in terrarium: the message above says where; `terrarium resume` goes on"
            .into(),
    }
}
