//! The run as an agent sees it, kept up to date by what is new: a call costs
//! the same after a hundred thousand candidates as after a hundred.

use crate::archive::{Mark, News, Place};
use crate::candidate::Candidate;
use crate::error::EngineError;
use crate::evaluate::{EvaluationRecord, Split};
use crate::ids::{BlobId, CandidateId};
use crate::ledger::{Decision, Event};
use crate::proposer::HistoryEntry;
use crate::proposer::agent::Reply;
use crate::run::RunFolder;
use crate::task::Direction;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Who puts submissions into the run.
const PERSON: &str = "person";

/// Where a candidate stands among the others: best first, then in order of
/// proposal.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rank {
    badness: f64,
    number: usize,
}

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.badness.total_cmp(&other.badness).then(self.number.cmp(&other.number))
    }
}

/// What is kept of a candidate.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Its place in the order of proposal, once it is known.
    number: Option<usize>,
    /// Evaluations on data that an agent may hear of.
    evaluations: u32,
    /// Selection scores, until one is missing.
    sum: f64,
    scored: u32,
    failed: bool,
    /// The event that decided about it.
    decided: Option<u64>,
}

impl Standing {
    fn score(&self) -> Option<f64> {
        (!self.failed && self.scored > 0).then(|| self.sum / f64::from(self.scored))
    }
}

/// What became of a submission that the search has taken.
pub enum Submission {
    /// It could not be read, with the reason.
    Unreadable(String),
    /// It is not used, with the reason.
    Unused(String),
    /// It is this candidate.
    Is(CandidateId),
    /// It is about to become one.
    UnderWay,
}

/// A run as it is now.
pub struct View {
    folder: RunFolder,
    mark: Mark,
    board: Board,
}

/// What was heard of it.
struct Board {
    direction: Direction,
    standings: HashMap<CandidateId, Standing>,
    order: Vec<CandidateId>,
    ranking: BTreeSet<Rank>,
    incumbent: Option<CandidateId>,
    over: bool,
    /// Submissions that were taken: where, and why they could not be read.
    taken: HashMap<BlobId, (Place, Option<String>)>,
    /// What became of those, by generation and place.
    became: HashMap<(u32, u32), Result<CandidateId, String>>,
}

impl View {
    /// Of this run.
    pub fn open(run: &Path) -> Result<Self, EngineError> {
        let folder = RunFolder::open_to_read(run)?;
        let board = Board {
            direction: folder.task().header.metric.direction,
            standings: HashMap::new(),
            order: Vec::new(),
            ranking: BTreeSet::new(),
            incumbent: None,
            over: false,
            taken: HashMap::new(),
            became: HashMap::new(),
        };
        Ok(Self { folder, mark: Mark::default(), board })
    }

    /// Takes in what was recorded since the last time. Returns how many rows
    /// that were. After an error the view is to be thrown away.
    pub fn refresh(&mut self) -> Result<u64, EngineError> {
        self.folder.archive().since(&mut self.mark, PERSON, |news| self.board.hear(news))
    }

    /// The run's folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Whether the final comparison was made.
    pub fn is_over(&self) -> bool {
        self.board.over
    }

    /// How many candidates there are.
    pub fn count(&self) -> usize {
        self.board.order.len()
    }

    /// The current best.
    pub fn incumbent(&self) -> Option<&CandidateId> {
        self.board.incumbent.as_ref()
    }

    /// The best, best first.
    pub fn best(&self, most: usize) -> Vec<CandidateId> {
        self.board
            .ranking
            .iter()
            .take(most)
            .filter_map(|rank| self.board.order.get(rank.number))
            .cloned()
            .collect()
    }

    /// The latest, latest first.
    pub fn latest(&self, most: usize) -> Vec<CandidateId> {
        self.board.order.iter().rev().take(most).cloned().collect()
    }

    /// Mean selection score; none if it failed on any seed.
    pub fn score(&self, id: &CandidateId) -> Option<f64> {
        self.board.standings.get(id)?.score()
    }

    /// On how many seeds and rungs it was evaluated.
    pub fn evaluations(&self, id: &CandidateId) -> u32 {
        self.board.standings.get(id).map_or(0, |standing| standing.evaluations)
    }

    /// What was decided about it.
    pub fn decision(&self, id: &CandidateId) -> Result<Option<Decision>, EngineError> {
        let Some(seq) = self.board.standings.get(id).and_then(|standing| standing.decided) else {
            return Ok(None);
        };
        let event = self.folder.archive().event(seq)?;
        Ok(if let Some(Event::Decided(decision)) = event { Some(decision) } else { None })
    }

    /// What became of the submission that the search took under this name;
    /// none if it has not taken it.
    pub fn submission(&self, name: &str) -> Option<Submission> {
        let (place, problem) = self.board.taken.get(&BlobId::of(name.as_bytes()))?;
        Some(match (problem, self.board.became.get(&(place.generation, place.place))) {
            (Some(problem), _) => Submission::Unreadable(problem.clone()),
            (None, Some(Ok(id))) => Submission::Is(id.clone()),
            (None, Some(Err(reason))) => Submission::Unused(reason.clone()),
            (None, None) => Submission::UnderWay,
        })
    }

    /// The candidate as a proposer sees it.
    pub fn entry(&self, candidate: &Candidate) -> Result<HistoryEntry, EngineError> {
        let mut records: Vec<EvaluationRecord> = self.folder.archive().evaluations_of(&candidate.id)?;
        records.retain(|record| record.key.split != Split::Final);
        let failed = records.iter().find(|r| !r.result.outcome.is_finished());
        let shown = records.iter().find(|r| r.result.outcome.is_finished()).or(records.first());
        Ok(HistoryEntry {
            candidate: candidate.id.clone(),
            source: self.folder.source(candidate)?.into(),
            source_id: candidate.source.clone(),
            knobs: candidate.knobs.clone(),
            score: self.score(&candidate.id),
            seeds: records.len() as u32,
            outcome_code: failed.or(shown).map_or("not-evaluated", |r| r.result.outcome.code()).into(),
            accepted: false,
            diagnostics: failed.map(|r| format!("{}\n{}", r.result.outcome, r.result.outcome.hint())),
            origin: candidate.origin.clone(),
            parent: candidate.parent.clone(),
            record: shown.cloned().map(Arc::new),
        })
    }
}

impl Board {
    fn hear(&mut self, news: News) {
        match news {
            News::Candidate(id) => {
                let number = self.order.len();
                let standing = self.standings.entry(id.clone()).or_default();
                standing.number = Some(number);
                let score = standing.score();
                self.order.push(id);
                self.rank(number, score);
            }
            News::Evaluation { split: Split::Final, .. } => {}
            News::Evaluation { candidate, split, score } => {
                let standing = self.standings.entry(candidate).or_default();
                let before = standing.score();
                standing.evaluations += 1;
                if split == Split::Selection {
                    match score {
                        Some(score) => {
                            standing.sum += score;
                            standing.scored += 1;
                        }
                        None => standing.failed = true,
                    }
                }
                let (number, now) = (standing.number, standing.score());
                if let Some(number) = number {
                    self.ranking.remove(&self.ranked(number, before));
                    self.rank(number, now);
                }
            }
            News::Event(seq, event) => self.event(seq, *event),
            News::Answer(place, text) => {
                // An answer that cannot be read is not one of ours.
                if let Ok(Reply { prompt: Some(mark), draft, problem, .. }) = serde_json::from_str(&text) {
                    self.taken.insert(mark, (place, draft.is_none().then_some(problem)));
                }
            }
        }
    }

    fn event(&mut self, seq: u64, event: Event) {
        match event {
            Event::Proposed { index, candidate, .. } => {
                self.incumbent.get_or_insert_with(|| candidate.id.clone());
                self.became.insert((candidate.generation, index), Ok(candidate.id));
            }
            Event::Unused { generation, index, reason, .. } => {
                drop(self.became.insert((generation, index), Err(reason)));
            }
            Event::Decided(decision) => {
                self.standings.entry(decision.candidate).or_default().decided = Some(seq);
            }
            Event::Crowned { candidate, .. } => self.incumbent = Some(candidate),
            Event::Demoted { successor, .. } => self.incumbent = Some(successor),
            Event::Final(_) => self.over = true,
            _ => {}
        }
    }

    fn ranked(&self, number: usize, score: Option<f64>) -> Rank {
        Rank { badness: score.map_or(f64::INFINITY, |score| self.direction.gain(0.0, score)), number }
    }

    fn rank(&mut self, number: usize, score: Option<f64>) {
        let rank = self.ranked(number, score);
        self.ranking.insert(rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Quadratic, Tell, new_run, run, small_search};
    use std::sync::Mutex;

    fn told(view: &View) -> Vec<(CandidateId, Option<f64>, u32, bool)> {
        let ids = view.best(usize::MAX);
        let all = ids.into_iter().map(|id| {
            let decided = view.decision(&id).unwrap().is_some();
            (id.clone(), view.score(&id), view.evaluations(&id), decided)
        });
        all.collect()
    }

    #[test]
    fn a_view_that_grew_with_the_run_equals_one_opened_at_its_end_and_reads_nothing_twice() {
        let home = tempfile::tempdir().unwrap();
        let folder = new_run(home.path(), small_search(), 1);
        let grown = Mutex::new((View::open(home.path()).unwrap(), 0));
        let watch = Tell(|_: &crate::observer::RunEvent| {
            let (view, rows) = &mut *grown.lock().unwrap();
            *rows += view.refresh().unwrap();
        });
        run(&folder, &Quadratic::default(), 1, &watch).unwrap();
        let (mut grown, before) = grown.into_inner().unwrap();
        let rows = before + grown.refresh().unwrap();
        assert_eq!(grown.refresh().unwrap(), 0, "a call without news reads nothing");
        let mut fresh = View::open(home.path()).unwrap();
        assert_eq!(fresh.refresh().unwrap(), rows);
        assert!(told(&grown) == told(&fresh) && fresh.is_over() && grown.is_over());
        let archive = folder.archive();
        assert_eq!(
            (fresh.incumbent(), fresh.count()),
            (archive.incumbent().unwrap().as_ref(), told(&fresh).len())
        );
        // As the archive itself has it.
        for point in archive.best_so_far().unwrap() {
            let (own, theirs) = (fresh.score(&point.candidate), point.score);
            assert!(own == theirs || (own.unwrap() - theirs.unwrap()).abs() < 1e-12, "{own:?} {theirs:?}");
        }
        let scores: Vec<f64> = told(&fresh).into_iter().filter_map(|(_, score, ..)| score).collect();
        assert!(scores.is_sorted(), "least is best: {scores:?}");
    }
}
