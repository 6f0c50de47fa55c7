//! Asking agents: side by side, within their budgets, and each thing once.

use super::{Halt, Loop};
use crate::archive::{Answer, Place};
use crate::candidate::Cost;
use crate::error::EngineError;
use crate::evaluate::Evaluate;
use crate::ids::BlobId;
use crate::proposer::agent::{Agent, Brief, Budget, Desk, Refusal, Reply};
use crate::run::RunFolder;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most questions that are out at a time.
const AT_A_TIME: usize = 16;

/// What the calls of one agent have spent, those under way in full.
pub struct Purse {
    budget: Budget,
    spent: Mutex<Cost>,
}

impl Purse {
    /// With what earlier processes spent of this run's budget.
    pub fn open(agent: &dyn Agent, folder: &RunFolder) -> Result<Self, EngineError> {
        let spent = folder.archive().spent(agent.name())?;
        Ok(Self { budget: agent.budget(), spent: Mutex::new(spent) })
    }
}

/// One call's view of the purse and the archive.
struct OneCall<'a> {
    folder: &'a RunFolder,
    purse: &'a Purse,
    place: &'a Place,
    stop: &'a AtomicBool,
    /// Of this call, what is spent or set aside.
    own: Mutex<Cost>,
}

impl Desk for OneCall<'_> {
    fn reserve(&self, most: Cost) -> Result<(), Refusal> {
        let mut spent = self.purse.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = self.purse.budget.exceeded(&spent, &most) {
            return Err(Refusal::Budget(what));
        }
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut with = *own;
        with += most;
        // On disk before the request is sent: a process that dies while the
        // request is under way has spent all of it.
        self.folder.archive().begin_call(self.place, &with)?;
        *own = with;
        *spent += most;
        Ok(())
    }

    fn settle(&self, most: Cost, actual: Cost) {
        for sum in [&self.purse.spent, &self.own] {
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            *sum = Cost {
                requests: sum.requests.saturating_sub(most.requests),
                input_tokens: sum.input_tokens.saturating_sub(most.input_tokens),
                output_tokens: sum.output_tokens.saturating_sub(most.output_tokens),
                micros: sum.micros.saturating_sub(most.micros),
            };
            *sum += actual;
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn keep(&self, text: &str) -> Result<BlobId, EngineError> {
        self.folder.blobs().put(text.as_bytes())
    }
}

/// A question to an agent.
pub struct Question<'a> {
    /// Which agent, in the order of the search's.
    pub agent: usize,
    /// What it is told.
    pub brief: Brief<'a>,
}

impl<E: Evaluate> Loop<'_, '_, E> {
    /// Asks all questions, many at a time; answers in their order. What was
    /// answered before is not asked again.
    pub(super) fn ask(&self, questions: &[Question<'_>]) -> Result<Vec<Option<Reply>>, Halt> {
        let next = AtomicUsize::new(0);
        let answers: Vec<Mutex<Option<Reply>>> = questions.iter().map(|_| Mutex::new(None)).collect();
        let work = || -> Result<(), EngineError> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(question) = questions.get(at) else {
                    return Ok(());
                };
                let reply = self.ask_one(question)?;
                *answers[at].lock().unwrap_or_else(PoisonError::into_inner) = reply;
            }
        };
        if questions.len() <= 1 {
            work()?;
        } else {
            let threads = questions.len().min(AT_A_TIME);
            std::thread::scope(|scope| {
                let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                handles
                    .into_iter()
                    .map(|handle| handle.join().unwrap_or_else(|_| Err(super::wave::panicked())))
                    .collect::<Result<Vec<()>, EngineError>>()
            })?;
        }
        if super::stop_requested(self.search.stop) {
            return Err(Halt::Drained);
        }
        Ok(answers.into_iter().map(|a| a.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    fn ask_one(&self, question: &Question<'_>) -> Result<Option<Reply>, EngineError> {
        let agent = self.search.agents[question.agent];
        let brief = &question.brief;
        let place =
            Place { generation: brief.generation, place: brief.place, proposer: agent.name().to_owned() };
        let archive = self.search.folder.archive();
        let lost = "the engine was stopped while it was asked";
        match archive.answer(&place)? {
            Some(Answer::Given(text)) => {
                let reply = serde_json::from_str(&text).map_err(|e| EngineError::DamagedArchive {
                    path: archive.path().to_path_buf(),
                    what: format!("an answer of `{}`: {e}", place.proposer),
                })?;
                return Ok(Some(reply));
            }
            // What it may have spent stays spent.
            Some(Answer::UnderWay) => return Ok(Some(Reply::none(lost))),
            None => {}
        }
        // A generation that is in the ledger was proposed without this one.
        if agent.comes_first() && archive.next_recorded()?.is_some() {
            return Ok(None);
        }
        let own = Mutex::new(Cost::default());
        let purse = &self.purses[question.agent];
        let call = OneCall { folder: self.search.folder, purse, place: &place, stop: self.search.stop, own };
        let reply = agent.ask(brief, &call)?;
        if call.stopped() && reply.as_ref().is_none_or(|reply| reply.draft.is_none()) {
            // Not an answer: the place counts as lost, with what it may have cost.
            return Ok(None);
        }
        let Some(mut reply) = reply else {
            return Ok(None);
        };
        reply.cost = *call.own.lock().unwrap_or_else(PoisonError::into_inner);
        let text = serde_json::to_string(&reply).unwrap_or_default();
        archive.end_call(&place, &text, &reply.cost)?;
        Ok(Some(reply))
    }
}
