//! The search: propose, race, decide, generation by generation.
//!
//! The whole loop is a pure function of the frozen configuration and of what
//! evaluations return. Proposals of a generation depend on the archive at its
//! start and on seeds derived from their position; evaluations go to the
//! workers and are recorded as they finish; decisions are taken in the order
//! of proposals, never in the order of completion. So `resume` is the same
//! function as `run`: it starts from the beginning, finds what is recorded
//! instead of evaluating it again, and compares each event that it computes
//! with the ledger.

mod asking;
mod bandit;
mod population;
mod propose;
mod race;
pub mod strategy;
mod wave;

pub use strategy::{ResetReason, Strategy};

use crate::error::EngineError;
use crate::evaluate::{Evaluate, Split};
use crate::gate::{Gain, Gate, mean_and_sd};
use crate::ids::CandidateId;
use crate::ledger::{Event, FinalComparison, ScoreSummary, StopReason};
use crate::observer::{RunEvent, RunObserver};
use crate::proposer::agent::Agent;
use crate::proposer::{Index, Proposer};
use crate::run::RunFolder;
use crate::seeds;
use crate::task::SearchConfig;
use asking::Purse;
use bandit::Bandit;
use population::Population;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wave::{Bench, Job};

/// Whether a child's source may follow from its parent's, or why not.
pub type Admit<'a> = dyn Fn(&str, &str) -> Result<(), String> + Sync + 'a;

/// Makes the strategy of a run.
pub type MakeStrategy<'a> = dyn Fn(&SearchConfig) -> Box<dyn Strategy> + Sync + 'a;

/// A search over one run folder.
pub struct Search<'a, E: Evaluate> {
    /// The run.
    pub folder: &'a RunFolder,
    /// Builds and evaluates.
    pub evaluator: &'a E,
    /// Who proposes.
    pub proposers: &'a [&'a dyn Proposer],
    /// Who proposes and cannot be asked twice.
    pub agents: &'a [&'a dyn Agent],
    /// What agents are told of the task: `TASK.md`.
    pub guide: &'a str,
    /// Another strategy than the one that the task asks for.
    pub strategy: Option<&'a MakeStrategy<'a>>,
    /// Checks (parent source, child source): edits outside the evolve blocks
    /// are refused before anything is built.
    pub admit: &'a Admit<'a>,
    /// Who watches.
    pub observer: &'a dyn RunObserver,
    /// Evaluations at a time. Does not change what is recorded.
    pub workers: usize,
    /// Set from outside to finish what runs and return.
    pub stop: &'a AtomicBool,
    /// Stop when another generation would not fit. Such a run says in its
    /// ledger that it stopped by the clock. Counted from this call.
    pub wall: Option<Duration>,
}

/// What a finished run found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// The last incumbent: what the races preferred.
    pub best: CandidateId,
    /// What the run keeps: `best` where the final comparison confirms it
    /// beyond noise, else the baseline. On a task in which nothing can be
    /// better that is wrong with probability `alpha` / 40 at most: first a race
    /// must err (`alpha` over the whole run), then a two-sided 95 % interval on
    /// seeds of its own, on the good side.
    pub kept: CandidateId,
    /// Standard deviation of the baseline's score over seeds.
    pub noise: f64,
    /// The comparison on data that no decision saw.
    pub comparison: FinalComparison,
    /// Why the search ended before its last generation, if it did.
    pub stopped: Option<StopReason>,
    /// Completed generations.
    pub generations: u32,
    /// Candidates, the baseline included.
    pub candidates: u64,
    /// Evaluations, both splits together.
    pub evaluations: u64,
    /// Hash of the last event of the ledger.
    pub ledger_head: String,
}

/// How [`Search::run`] ended.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum RunEnd {
    /// The final comparison was made.
    Finished(RunSummary),
    /// The stop flag was seen; the run can be resumed.
    Drained,
}

/// Generations in a row without a proposal after which agents are not asked again.
const MOST_IDLE: u32 = 3;

/// Why the loop left off.
enum Halt {
    Drained,
    Failed(EngineError),
}

impl From<EngineError> for Halt {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

/// Who is to be beaten, and on which seeds. Each reign has seeds of its own,
/// so that an incumbent is never judged on those that it won by.
#[derive(Clone, Copy, Debug)]
struct Reign {
    member: usize,
    number: u32,
}

impl Reign {
    fn seed(&self, run_seed: u64, index: usize) -> u64 {
        seeds::derive(run_seed, "selection", &[u64::from(self.number), index as u64])
    }
}

impl<E: Evaluate> Search<'_, E> {
    /// Runs, or goes on, to the end.
    pub fn run(&self) -> Result<RunEnd, EngineError> {
        self.folder.check_identity(&self.evaluator.identity())?;
        self.folder.archive().rewind()?;
        let (arms, weights) = propose::arms(&self.folder.task().search, self.proposers, self.agents)?;
        let mut all = match Loop::new(self, arms, weights) {
            Ok(all) => all,
            Err(Halt::Drained) => return Ok(RunEnd::Drained),
            Err(Halt::Failed(error)) => return Err(error),
        };
        let ended = all.run();
        // Whatever it ended with, what was done is on disk.
        let flushed = all.bench.flush();
        match ended.and_then(|summary| flushed.map(|()| summary).map_err(Halt::Failed)) {
            Ok(summary) => Ok(RunEnd::Finished(summary)),
            Err(Halt::Drained) => Ok(RunEnd::Drained),
            Err(Halt::Failed(error)) => Err(error),
        }
    }
}

/// The state of the loop: all of it follows from the ledger.
struct Loop<'a, 'b, E: Evaluate> {
    search: &'b Search<'a, E>,
    config: &'b SearchConfig,
    run_seed: u64,
    /// Names of all proposers: first those that can be asked again, then the agents.
    arms: Vec<String>,
    weights: Vec<f64>,
    bandit: Bandit,
    strategy: Box<dyn Strategy>,
    purses: Vec<Purse>,
    /// Islands of the candidates under way.
    homes: HashMap<usize, u32>,
    generation: u32,
    /// The proposers' index, where they are told nothing of what was tried.
    nothing: Index,
    population: Population,
    bench: Bench<'a, 'b, E>,
    reigns: Vec<Reign>,
    crowned: u32,
    noise: f64,
    gate: Gate,
    started: Instant,
    slowest_generation: Duration,
}

impl<'a, 'b, E: Evaluate> Loop<'a, 'b, E> {
    fn new(search: &'b Search<'a, E>, arms: Vec<String>, weights: Vec<f64>) -> Result<Self, Halt> {
        let folder = search.folder;
        let config = &folder.task().search;
        let baseline = folder.baseline();
        let source = folder.source(&baseline)?;
        let mut population = Population::new(folder.task().header.metric.direction);
        let member = population.add(baseline, source.into(), None);
        let purses =
            search.agents.iter().map(|a| Purse::open(*a, folder)).collect::<Result<Vec<_>, EngineError>>()?;
        Ok(Self {
            search,
            config,
            run_seed: folder.config().seed,
            bandit: Bandit::new(arms.len(), config.bandit),
            arms,
            weights,
            strategy: match search.strategy {
                Some(make) => make(config),
                None => strategy::configured(config),
            },
            purses,
            homes: HashMap::new(),
            generation: 0,
            nothing: Index::of(folder.task().header.metric.direction, &population.entries()[..1]),
            population,
            bench: Bench::new(search),
            reigns: vec![Reign { member, number: 0 }],
            crowned: 0,
            noise: 0.0,
            gate: Gate::new(
                config.race_seeds,
                config.alpha,
                config.most_challengers(),
                config.drop_below,
                0.0,
            ),
            started: Instant::now(),
            slowest_generation: Duration::ZERO,
        })
    }

    fn run(&mut self) -> Result<RunSummary, Halt> {
        self.open()?;
        self.measure_noise()?;
        let mut completed = 0;
        let mut idle = 0;
        let mut stopped = None;
        while completed < self.config.generations {
            stopped = self.reason_to_stop(completed)?;
            if stopped.is_some() {
                break;
            }
            let begun = Instant::now();
            let generation = completed + 1;
            self.generation = generation;
            let incumbent = self.population.id(self.incumbent().member);
            self.observe(&RunEvent::Generation { generation, incumbent });
            let challengers = self.propose(generation)?;
            if challengers.is_empty() {
                idle += 1;
                stopped = self.why_nothing(idle)?;
                if stopped.is_some() {
                    break;
                }
            } else {
                idle = 0;
                self.race(generation, &challengers)?;
            }
            self.bench.forget_builds();
            self.slowest_generation = self.slowest_generation.max(begun.elapsed());
            completed = generation;
        }
        if let Some(reason) = stopped {
            self.archive_events(&[Event::Stopped { generation: completed, reason }])?;
            self.observe(&RunEvent::Stopped { reason });
        }
        let comparison = self.compare_at_the_end()?;
        let (_, ledger_head) = self.search.folder.archive().head();
        let winner = if comparison.beats_noise { self.incumbent().member } else { 0 };
        Ok(RunSummary {
            best: self.population.id(self.incumbent().member),
            kept: self.population.id(winner),
            noise: self.noise,
            comparison,
            stopped,
            generations: completed,
            candidates: self.population.len() as u64,
            evaluations: self.bench.evaluations() as u64,
            ledger_head,
        })
    }

    fn open(&mut self) -> Result<(), Halt> {
        let folder = self.search.folder;
        self.observe(&RunEvent::Started {
            metric: folder.task().header.metric.name.clone(),
            generations: self.config.generations,
            generation_size: self.config.generation_size,
            recorded_evaluations: folder.archive().evaluation_count()?,
        });
        let baseline = self.population.candidate(0).clone();
        self.archive_events(&[
            Event::Started { config: folder.config_digest().clone(), seed: self.run_seed },
            Event::Proposed { index: 0, candidate: baseline, island: 0 },
        ])
    }

    /// The baseline on several seeds: how much scores move by themselves.
    fn measure_noise(&mut self) -> Result<(), Halt> {
        let reign = self.incumbent();
        let seeds: Vec<u64> =
            (0..self.config.noise_seeds as usize).map(|i| reign.seed(self.run_seed, i)).collect();
        let jobs: Vec<Job> = seeds.iter().map(|seed| Job::selection(reign.member, *seed)).collect();
        let records = self.wave(&jobs)?;
        if let Some(bad) = records.iter().find(|record| record.result.score.is_none()) {
            let outcome = bad.result.outcome.clone();
            return Err(EngineError::BaselineFailed { seed: bad.key.seed, outcome }.into());
        }
        let scores: Vec<f64> = records.iter().filter_map(|record| record.result.score).collect();
        self.noise = mean_and_sd(&scores).1;
        let config = self.config;
        self.gate = Gate::new(
            config.race_seeds,
            config.alpha,
            config.most_challengers(),
            config.drop_below,
            self.noise,
        );
        let scores = scores.into_iter().map(Some).collect();
        let baseline = ScoreSummary::new(self.population.id(reign.member), seeds, scores);
        self.archive_events(&[Event::NoiseFloor { baseline: baseline.clone() }])?;
        self.observe(&RunEvent::NoiseFloor { baseline });
        Ok(())
    }

    /// Whether to stop before the next generation. What an earlier process
    /// recorded here is repeated, not decided again.
    fn reason_to_stop(&self, completed: u32) -> Result<Option<StopReason>, Halt> {
        if self.evaluations_left() == 0 {
            return Ok(Some(StopReason::Evals));
        }
        if self.config.fuel.is_some_and(|fuel| self.population.fuel() >= fuel) {
            return Ok(Some(StopReason::Fuel));
        }
        match self.search.folder.archive().next_recorded()? {
            Some(Event::Stopped { generation, reason: StopReason::Wall }) if generation == completed => {
                return Ok(Some(StopReason::Wall));
            }
            Some(_) => return Ok(None),
            None => {}
        }
        let Some(wall) = self.search.wall else {
            return Ok(None);
        };
        let workers = self.search.workers.max(1) as u32;
        let last_wave = self.bench.mean_evaluation() * (2 * self.config.final_seeds).div_ceil(workers);
        let enough = self.started.elapsed() + self.slowest_generation + last_wave > wall;
        Ok(enough.then_some(StopReason::Wall))
    }

    /// Baseline against the last incumbent on seeds and data of their own.
    fn compare_at_the_end(&mut self) -> Result<FinalComparison, Halt> {
        let best = self.incumbent().member;
        let seeds: Vec<u64> = (0..u64::from(self.config.final_seeds))
            .map(|i| seeds::derive(self.run_seed, "final", &[i]))
            .collect();
        let members: &[usize] = if best == 0 { &[0] } else { &[0, best] };
        let jobs: Vec<Job> = members
            .iter()
            .flat_map(|member| {
                seeds.iter().map(|seed| Job { member: *member, split: Split::Final, seed: *seed })
            })
            .collect();
        let records = self.wave(&jobs)?;
        let scores: Vec<Option<f64>> = records.iter().map(|record| record.result.score).collect();
        let (of_baseline, of_best) = scores.split_at(seeds.len());
        let of_best = if best == 0 { of_baseline } else { of_best };
        let direction = self.population.direction();
        let gains: Vec<f64> = of_best
            .iter()
            .zip(of_baseline)
            .filter_map(|(new, old)| Some(direction.gain((*new)?, (*old)?)))
            .collect();
        let gain = if best == 0 { None } else { Gain::of(&gains, self.noise) };
        let summary = |member: usize, scores: &[Option<f64>]| {
            ScoreSummary::new(self.population.id(member), seeds.clone(), scores.to_vec())
        };
        let comparison = FinalComparison {
            baseline: summary(0, of_baseline),
            best: summary(best, of_best),
            beats_noise: gain.as_ref().is_some_and(Gain::beats_noise),
            gain,
        };
        self.archive_events(&[Event::Final(comparison.clone())])?;
        self.observe(&RunEvent::Final { comparison: comparison.clone() });
        Ok(comparison)
    }

    fn incumbent(&self) -> Reign {
        // The baseline's reign is never removed.
        self.reigns.last().copied().unwrap_or(Reign { member: 0, number: 0 })
    }

    /// Why to stop after so many generations in which nobody proposed, if at
    /// all: a model that is out of reach may be back the next time.
    fn why_nothing(&self, idle: u32) -> Result<Option<StopReason>, Halt> {
        match self.search.folder.archive().next_recorded()? {
            Some(Event::Stopped { reason, .. }) => Ok(Some(reason)),
            _ if self.is_out_of_time() => Ok(Some(StopReason::Wall)),
            _ if idle < MOST_IDLE && self.asks_agents() => Ok(None),
            _ => Ok(Some(StopReason::NoProposals)),
        }
    }

    fn is_out_of_time(&self) -> bool {
        self.search.wall.is_some_and(|wall| self.started.elapsed() >= wall)
    }

    fn view(&self) -> strategy::View<'_> {
        strategy::View::new(&self.population, self.incumbent().member, self.generation, self.config)
    }

    fn evaluations_left(&self) -> usize {
        match self.config.evals {
            Some(evals) => (evals as usize).saturating_sub(self.population.selection_evaluations()),
            None => usize::MAX,
        }
    }

    /// Evaluates what is not yet known, and lets the population know it.
    fn wave(&mut self, jobs: &[Job]) -> Result<Vec<wave::Shared>, Halt> {
        let records = self.bench.wave(&self.population, jobs)?;
        for (job, record) in jobs.iter().zip(&records) {
            match job.split {
                Split::Selection => self.population.learn(job.member, record),
                Split::Rung(rung) => self.population.learn_on_rung(job.member, rung, record),
                Split::Final => {}
            }
        }
        Ok(records)
    }

    fn archive_events(&self, events: &[Event]) -> Result<(), Halt> {
        self.search.folder.archive().append(events)?;
        Ok(())
    }

    fn observe(&self, event: &RunEvent) {
        self.search.observer.observe(event);
    }
}

fn stop_requested(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests;
