//! One evaluation in one worker.
//!
//! # What is tried again
//!
//! An evaluation is deterministic, so a candidate that brings its worker down
//! does so again; trying it twice would only run an attack twice.
//!
//! | what happened | whose fault | what follows |
//! | --- | --- | --- |
//! | the guest trapped, ran out of something, or was refused | the candidate's | its outcome; the worker is replaced where it trapped |
//! | the worker died of a signal that code can cause (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGABRT`, `SIGSYS`), or exited | the candidate's | `worker-died`, at once |
//! | the worker died of `SIGKILL` or `SIGTERM` that was not ours, or the device was lost | the machine's | tried again in a fresh worker, three times at most; the last outcome is recorded |
//! | the worker said what no worker says | ours at first | tried again once; the second time it is the candidate's: `worker-died`, signal 0 |
//!
//! So a candidate that has its worker killed from outside every time (by
//! using memory until the kernel steps in, say) is told apart from bad luck by
//! its repetition, and costs four tries. Where a host function was called,
//! nothing is tried again: its effects would happen twice.

use super::admission::{Permit, Refused};
use super::pool::{Acquired, Purpose, leaves_no_doubt};
use super::session::{Answer, Broken, Session};
use super::{Component, Sandbox, SandboxError, TRIES, micros};
use crate::cancel::{CancelHandle, Registration};
use crate::child::Child;
use crate::host::HostFunctions;
use crate::worker::Request;
use crate::{Evaluation, Outcome, Phase, Report};
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// What a caller takes part in while an evaluation runs.
#[derive(Default)]
#[non_exhaustive]
pub struct RunOptions<'a> {
    /// Stops it from another thread.
    pub cancel: Option<&'a CancelHandle>,
    /// Gets each line of the log as it comes, cleaned, without its line end.
    /// It runs on the thread that waits, so it should be quick. The lines are
    /// in the report as well.
    pub on_log: Option<&'a mut (dyn FnMut(&str) + 'a)>,
    /// Functions that the guest may call, instead of the sandbox's.
    pub host_functions: Option<&'a HostFunctions>,
    /// Each step of a training is driven a second time by the worker itself,
    /// and both are timed: [`Timing::steps`](crate::Timing::steps). For
    /// benchmarks; the score is another one then.
    pub native_peer: bool,
}

impl<'a> RunOptions<'a> {
    /// None of them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stopped by this handle.
    #[must_use]
    pub fn cancel(self, cancel: &'a CancelHandle) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    /// Log lines go here.
    #[must_use]
    pub fn on_log(self, on_log: &'a mut (dyn FnMut(&str) + 'a)) -> Self {
        Self { on_log: Some(on_log), ..self }
    }

    /// With each step of a training timed beside the same step from Rust.
    #[must_use]
    pub fn native_peer(self) -> Self {
        Self { native_peer: true, ..self }
    }

    /// With these functions instead of the sandbox's.
    #[must_use]
    pub fn host_functions(self, functions: &'a HostFunctions) -> Self {
        Self { host_functions: Some(functions), ..self }
    }
}

/// How one try ended.
enum Tried {
    Report(Report),
    /// The worker said what no worker says.
    Garbled(Report),
}

impl Sandbox {
    /// Runs one evaluation in a locked-down worker. Blocks; call it from
    /// several threads for parallelism. Whatever the candidate does, the answer
    /// is a report.
    ///
    /// # Errors
    /// The host is in trouble, or busy for longer than callers wait.
    pub fn run(&self, component: &Component, evaluation: &Evaluation) -> Result<Report, SandboxError> {
        self.run_with(component, evaluation, RunOptions::default())
    }

    /// The same, with logs as they come, host functions, or a way to stop it.
    ///
    /// # Errors
    /// As [`Sandbox::run`], and names of host functions that do not fit.
    pub fn run_with(
        &self,
        component: &Component,
        evaluation: &Evaluation,
        options: RunOptions<'_>,
    ) -> Result<Report, SandboxError> {
        evaluation.limits.check()?;
        let start = Instant::now();
        let functions = self.functions(options.host_functions)?;
        let Some(_permit) = self.enter(options.cancel)? else {
            return Ok(Report::ended(Outcome::Cancelled { phase: Phase::Instantiate }));
        };
        let on_log = options.on_log.map(|on_log| on_log as &mut dyn FnMut(&str));
        let mut session = Session::new(functions, options.cancel, on_log).beside_native(options.native_peer);
        let (mut tries, mut garbled) = (0, false);
        let mut report = loop {
            tries += 1;
            let tried = self.attempt(component, evaluation, options.cancel, &mut session)?;
            // Whose work lost the device would lose the next one too.
            let guilty = |report: &Report| matches!(&report.outcome, Outcome::DeviceLost { reason } if reason.contains(crate::broker::GUILTY));
            let again = tries < TRIES && !session.had_effects();
            session.next_try();
            match tried {
                Tried::Report(report) if again && report.outcome.is_infrastructure() && !guilty(&report) => {}
                Tried::Garbled(_) if again && !garbled => garbled = true,
                Tried::Report(report) | Tried::Garbled(report) => break report,
            }
        };
        report.timing.total_us = micros(start.elapsed());
        Ok(report)
    }

    pub(super) fn functions<'a>(
        &'a self,
        own: Option<&'a HostFunctions>,
    ) -> Result<&'a HostFunctions, SandboxError> {
        let functions = own.unwrap_or(&self.config.host_functions);
        functions.check().map_err(|reason| SandboxError::HostFunctions { reason })?;
        Ok(functions)
    }

    /// Waits for a place among the workers; `None` when it was cancelled.
    pub(super) fn enter(&self, cancel: Option<&CancelHandle>) -> Result<Option<Permit>, SandboxError> {
        let waited = self.config.queue_timeout;
        match self.admission.enter(waited, cancel) {
            Ok(permit) => Ok(Some(permit)),
            Err(Refused::Cancelled) => Ok(None),
            Err(Refused::Timeout) => Err(SandboxError::Busy { workers: self.config.workers, waited }),
        }
    }

    fn attempt(
        &self,
        component: &Component,
        evaluation: &Evaluation,
        cancel: Option<&CancelHandle>,
        session: &mut Session<'_>,
    ) -> Result<Tried, SandboxError> {
        let start = Instant::now();
        let mut worker = match self.acquire(component, evaluation)? {
            Acquired::Worker(worker) => worker,
            Acquired::Outcome(outcome) => return Ok(Tried::Report(Report::ended(outcome))),
        };
        let stops = stopped_by(cancel, &worker)?;
        let mut phase = evaluation.first_phase();
        let end = start + Duration::from_millis(evaluation.limits.wall_ms);
        let request = Request::Evaluate {
            evaluation: Cow::Borrowed(evaluation),
            attached: Cow::Owned(session.attached()),
        };
        let answer = match worker.send(&request) {
            Ok(()) => session.wait(&mut worker, &evaluation.limits, end, &mut phase),
            Err(e) => Err(session.of_child(e)),
        };
        drop(stops);
        match answer {
            Ok(Answer::Done(report)) => {
                // A handle that was cancelled just now has cut the channel.
                let cut = cancel.is_some_and(CancelHandle::is_cancelled);
                if leaves_no_doubt(&report.outcome) && !cut {
                    self.pool.keep(Purpose::of(component, evaluation), *worker);
                }
                Ok(Tried::Report(*report))
            }
            Ok(Answer::Called(_)) | Err(Broken::Garbled) => {
                Ok(Tried::Garbled(Report::ended(Broken::Garbled.outcome(phase))))
            }
            Err(broken) => Ok(Tried::Report(Report::ended(broken.outcome(phase)))),
        }
    }
}

/// Has the handle end the conversation with this worker, while the result lives.
pub(super) fn stopped_by<'a>(
    cancel: Option<&'a CancelHandle>,
    worker: &Child,
) -> Result<Option<Registration<'a>>, SandboxError> {
    let Some(cancel) = cancel else {
        return Ok(None);
    };
    let hang_up = worker
        .hang_up()
        .map_err(|e| SandboxError::Child { part: "the worker's channel", reason: e.to_string() })?;
    Ok(Some(cancel.on_cancel(hang_up)))
}
