//! Workers that are started, and workers that wait for work.
//!
//! A worker is started for one component and one set of ceilings, and serves
//! any number of evaluations of it. It goes back to those that wait only after
//! an outcome that leaves no doubt about it; any other is killed and replaced
//! by a fresh one when the next is needed.

use super::{Component, Sandbox, SandboxError};
use crate::child::{Child, ChildError, Start};
use crate::worker::{Hello, Reply};
use crate::{Evaluation, Job, Limits, Outcome, Phase, Shards, text};
use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Largest message that is accepted from a worker that starts.
const MAX_GREETING: usize = 64 << 10;

/// Time for a worker to load its component and lock itself down.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// What a worker was started for.
#[derive(Clone)]
pub(super) struct Purpose {
    component: String,
    shards: Option<Shards>,
    ceilings: [u64; 4],
}

struct Idle {
    purpose: Purpose,
    worker: Child,
}

/// Those that wait.
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
    room: usize,
}

/// A worker, or the outcome of all evaluations that would need it.
pub(super) enum Acquired {
    Worker(Box<Child>),
    Outcome(Outcome),
}

impl Purpose {
    pub(super) fn of(component: &Component, evaluation: &Evaluation) -> Self {
        Self {
            component: component.id.clone(),
            shards: shards(evaluation).cloned(),
            ceilings: ceilings(&evaluation.limits),
        }
    }

    /// Whether a worker of this purpose can serve the evaluation.
    pub(super) fn fits(&self, component: &Component, evaluation: &Evaluation) -> bool {
        self.component == component.id
            && self.ceilings == ceilings(&evaluation.limits)
            && self.shards.as_ref() == shards(evaluation)
    }
}

fn shards(evaluation: &Evaluation) -> Option<&Shards> {
    match &evaluation.job {
        Job::Train { shards, .. } => Some(shards),
        Job::Call { .. } | Job::Calls { .. } => None,
    }
}

fn ceilings(l: &Limits) -> [u64; 4] {
    [l.memory_bytes, l.table_elements, l.device_bytes, l.tensors]
}

/// Whether a worker that reported this is trusted with another evaluation. A
/// guest that trapped leaves nothing behind in a fresh store, but its worker
/// is not kept.
pub(super) fn leaves_no_doubt(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Finished | Outcome::GuestError { .. } | Outcome::OutOfFuel { .. })
}

impl Pool {
    pub(super) fn new(room: usize) -> Self {
        Self { idle: Mutex::default(), room }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, component: &Component, evaluation: &Evaluation) -> Option<Child> {
        loop {
            let mut idle = self.lock();
            // The last one that came back: its memory is warm.
            let at = idle.iter().rposition(|i| i.purpose.fits(component, evaluation))?;
            let mut worker = idle.remove(at).worker;
            drop(idle);
            if worker.is_alive() {
                return Some(worker);
            }
        }
    }

    pub(super) fn keep(&self, purpose: Purpose, worker: Child) {
        let mut idle = self.lock();
        idle.push(Idle { purpose, worker });
        let oldest = (idle.len() > self.room).then(|| idle.remove(0));
        drop(idle);
        drop(oldest); // Kills and reaps it.
    }

    pub(super) fn drain(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    pub(super) fn idle(&self) -> Vec<u32> {
        self.lock().iter().map(|i| i.worker.id()).collect()
    }
}

impl Sandbox {
    /// A waiting worker, or a new one.
    pub(super) fn acquire(
        &self,
        component: &Component,
        evaluation: &Evaluation,
    ) -> Result<Acquired, SandboxError> {
        if let Some(outcome) = component.artifact.too_large_for(&evaluation.limits) {
            return Ok(Acquired::Outcome(outcome));
        }
        match self.pool.take(component, evaluation) {
            Some(worker) => Ok(Acquired::Worker(Box::new(worker))),
            None => self.start(component, evaluation),
        }
    }

    fn start(&self, component: &Component, evaluation: &Evaluation) -> Result<Acquired, SandboxError> {
        let trouble = |reason: String| SandboxError::Child { part: "starting a worker", reason };
        let files = shards(evaluation).map(|s| {
            let mut files = vec![s.train.clone(), s.held_out.clone()];
            files.extend(s.token_bytes.clone());
            files
        });
        let connection = self.config.broker.as_deref().map(crate::broker::connection);
        let connection = connection.transpose().map_err(|e| trouble(e.to_string()))?;
        let child = Start {
            exe: self.config.exe.clone(),
            role: "worker",
            isolation: self.config.isolation,
            files: files.unwrap_or_default(),
            memory: crate::worker::memory(evaluation.limits.memory_bytes, evaluation.limits.device_bytes),
        };
        // A connection is made for one worker alone.
        let alike = connection.is_none().then(|| child.clone());
        let worker = match connection {
            Some(_) => Child::spawn(child, connection),
            None => Child::next(&self.children, &child),
        };
        let mut worker = worker.map_err(|e| trouble(e.to_string()))?;
        let limits = &evaluation.limits;
        let hello = Hello {
            build: crate::machine::build().into(),
            artifact: Cow::Borrowed(component.artifact.as_ref()),
            shards: shards(evaluation).cloned(),
            device: match self.config.broker {
                Some(_) => crate::broker::BROKERED.into(),
                None => self.config.device.clone(),
            },
            threads: self.config.threads_per_worker,
            memory_bytes: limits.memory_bytes,
            table_elements: limits.table_elements,
            device_bytes: limits.device_bytes,
            tensors: limits.tensors,
        };
        let greeting =
            worker.send(&hello).and_then(|()| worker.receive::<Reply>(MAX_GREETING, START_DEADLINE));
        match greeting {
            Ok(Reply::Ready) => {
                if let Some(child) = alike {
                    worker.prepare(&self.children, child);
                }
                Ok(Acquired::Worker(Box::new(worker)))
            }
            Ok(Reply::Refused(reason)) => {
                Ok(Acquired::Outcome(Outcome::Rejected { reason: text::clean(&reason, 2_000) }))
            }
            Ok(Reply::Failed(reason)) => Err(trouble(text::clean(&reason, 2_000))),
            Ok(_) => Err(trouble("it answered out of turn".into())),
            // Killed from outside before it was ready.
            Err(ChildError::Died { signal: signal @ (libc::SIGKILL | libc::SIGTERM) }) => {
                Ok(Acquired::Outcome(Outcome::WorkerDied { signal, phase: Phase::Instantiate }))
            }
            Err(e) => Err(trouble(e.to_string())),
        }
    }
}
