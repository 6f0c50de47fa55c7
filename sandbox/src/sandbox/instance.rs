//! Instances that live on between calls.

use super::admission::Permit;
use super::pool::Acquired;
use super::run::stopped_by;
use super::session::{Answer, Broken, Session, Tally};
use super::{Component, Sandbox, SandboxError, TRIES};
use crate::cancel::CancelHandle;
use crate::child::Child;
use crate::host::HostFunctions;
use crate::worker::{Attached, Called, Request};
use crate::{Evaluation, Job, Knobs, Limits, Outcome, Phase, Usage};
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// Gets each line of a guest's log as it comes, cleaned.
pub type OnLog = Box<dyn FnMut(&str) + Send>;

/// How an [`Instance`] is set up.
#[derive(Default)]
pub struct InstanceOptions {
    /// Seed of the evaluation, for what the host draws.
    pub seed: u64,
    /// Knob values.
    pub knobs: Knobs,
    /// Hard limits of the whole life: fuel of all calls together, `wall_ms`
    /// for the time inside calls together, host calls, log bytes. For an
    /// instance without an end, raise `fuel` and `wall_ms` and set the limits
    /// per call.
    pub limits: Limits,
    /// Fuel of one call, if less than what is left of `limits.fuel`.
    pub call_fuel: Option<u64>,
    /// Longest time of one call, if less than what is left of `limits.wall_ms`.
    pub call_deadline: Option<Duration>,
    /// Functions that the guest may call, instead of the sandbox's.
    pub host_functions: Option<HostFunctions>,
    /// Gets each line of the log as it comes.
    pub on_log: Option<OnLog>,
}

/// Why a call of an [`Instance`] has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The guest returned this error (hostile text, bounded). The instance
    /// lives on.
    #[error("the guest returned an error: {message}")]
    Guest {
        /// What it said.
        message: String,
    },
    /// The instance ended so. Every later call ends in the same way.
    #[error("the instance ended: {0}")]
    Ended(Outcome),
}

/// A guest of the world `function` in a locked-down worker of its own, whose
/// memory lives from call to call. Takes one of the sandbox's places for
/// workers until it ends; dropping it kills the worker. A worker that dies is
/// not replaced, because the guest's state died with it.
pub struct Instance {
    /// While it lives.
    live: Option<(Box<Child>, Permit)>,
    /// How it ended, once it has.
    ended: Option<Outcome>,
    limits: Limits,
    call_fuel: u64,
    call_deadline: Duration,
    functions: HostFunctions,
    on_log: Option<OnLog>,
    cancel: CancelHandle,
    tally: Tally,
    usage: Usage,
    /// Time inside calls.
    spent: Duration,
}

impl Sandbox {
    /// Starts a long-lived instance of a component of the world `function`.
    /// One that cannot start, because its start function traps for example, is
    /// an instance that has ended: its first call says how.
    ///
    /// # Errors
    /// As [`Sandbox::run_with`].
    pub fn instance(
        &self,
        component: &Component,
        options: InstanceOptions,
    ) -> Result<Instance, SandboxError> {
        options.limits.check()?;
        let mut instance = Instance {
            live: None,
            ended: None,
            limits: options.limits.clone(),
            call_fuel: options.call_fuel.unwrap_or(u64::MAX),
            call_deadline: options.call_deadline.unwrap_or(Duration::MAX),
            functions: self.functions(options.host_functions.as_ref())?.clone(),
            on_log: options.on_log,
            cancel: CancelHandle::new(),
            tally: Tally::default(),
            usage: Usage::default(),
            spent: Duration::ZERO,
        };
        let evaluation = Evaluation {
            seed: options.seed,
            probe_key: 0,
            knobs: options.knobs,
            job: Job::Call { input: Vec::new() },
            limits: options.limits,
        };
        let attached = Session::new(&instance.functions, None, None).attached();
        let attached = Attached { logs: instance.on_log.is_some(), ..attached };
        // No handle can have cancelled what nobody has yet.
        let Some(permit) = self.enter(None)? else { return Ok(instance) };
        let (mut tries, mut permit) = (0, Some(permit));
        loop {
            tries += 1;
            let ended = match self.acquire(component, &evaluation)? {
                Acquired::Outcome(outcome) => Some(outcome),
                Acquired::Worker(worker) => {
                    instance.live = permit.take().map(|permit| (worker, permit));
                    let request = Request::Open {
                        evaluation: Cow::Borrowed(&evaluation),
                        attached: Cow::Borrowed(&attached),
                    };
                    instance.exchange(&request, Phase::Instantiate).err()
                }
            };
            match ended {
                Some(outcome) if outcome.is_infrastructure() && tries < TRIES => {
                    if permit.is_none() {
                        permit = self.enter(None)?;
                    }
                }
                ended => {
                    instance.ended = ended;
                    return Ok(instance);
                }
            }
        }
    }
}

impl Instance {
    /// One call of the guest. Blocks.
    ///
    /// # Errors
    /// [`CallError::Guest`] when the guest returned an error and lives on;
    /// [`CallError::Ended`] when it ended, now or earlier.
    pub fn call(&mut self, input: &[u8]) -> Result<Vec<u8>, CallError> {
        if let Some(outcome) = &self.ended {
            return Err(CallError::Ended(outcome.clone()));
        }
        let request = Request::Call { input: input.to_vec(), fuel: self.call_fuel };
        match self.exchange(&request, Phase::Call) {
            Ok(output) => Ok(output),
            Err(Outcome::GuestError { message, .. }) => Err(CallError::Guest { message }),
            Err(outcome) => {
                self.ended = Some(outcome.clone());
                Err(CallError::Ended(outcome))
            }
        }
    }

    /// Ends the instance from any thread, now or at its next call.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// What all calls together used.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.ended.as_ref()
    }

    /// Process id of its worker, while it lives.
    pub fn worker(&self) -> Option<u32> {
        self.live.as_ref().map(|(worker, _)| worker.id())
    }

    /// One request and its answer. Whatever ends the instance ends its worker
    /// and gives its place back.
    fn exchange(&mut self, request: &Request<'_>, mut phase: Phase) -> Result<Vec<u8>, Outcome> {
        let start = Instant::now();
        let whole = Duration::from_millis(self.limits.wall_ms);
        let left = whole.saturating_sub(self.spent).min(self.call_deadline);
        let Some((worker, _)) = &mut self.live else {
            return Err(Outcome::WorkerDied { signal: 0, phase });
        };
        let on_log = self.on_log.as_mut().map(|on_log| &mut **on_log as &mut dyn FnMut(&str));
        let mut session = Session::new(&self.functions, Some(&self.cancel), on_log).resume(self.tally);
        let answer = match stopped_by(Some(&self.cancel), worker) {
            Err(_) => Err(session.garbled(worker)),
            Ok(_stops) => match worker.send(request) {
                Ok(()) => session.wait(worker, &self.limits, start + left, &mut phase),
                Err(e) => Err(session.of_child(e)),
            },
        };
        self.tally = session.tally();
        self.spent = self.spent.saturating_add(start.elapsed());
        let outcome = match answer {
            Ok(Answer::Called(called)) => {
                let Called { result, usage, .. } = *called;
                self.usage = usage;
                match result {
                    Ok(output) => return Ok(output.into_vec()),
                    Err(outcome @ Outcome::GuestError { .. }) => return Err(outcome),
                    Err(outcome) => outcome,
                }
            }
            Ok(Answer::Done(_)) => Broken::Garbled.outcome(phase),
            Err(broken) => broken.outcome(phase),
        };
        self.live = None;
        Err(outcome)
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("worker", &self.worker()).field("ended", &self.ended).finish()
    }
}
