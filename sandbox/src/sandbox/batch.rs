//! Many evaluations of one component, through one worker, without waiting for
//! each answer before the next request is sent.
//!
//! Each still has a fresh store, a deadline and a report of its own; a worker
//! that is in doubt is replaced, and what was sent to it ahead is sent again.

use super::pool::{Acquired, Purpose, leaves_no_doubt};
use super::run::stopped_by;
use super::session::{Answer, Session};
use super::{Component, RunOptions, Sandbox, SandboxError, micros};
use crate::cancel::CancelHandle;
use crate::child::Child;
use crate::worker::{Attached, Request};
use crate::{Evaluation, Outcome, Phase, Report, wire};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most requests, and bytes of requests, that are sent before the answer to
/// the first is read. They must fit the socket's buffer (at least 160 KiB,
/// some of it overhead): a worker that is writing an answer reads nothing.
const AHEAD: usize = 32;
const AHEAD_BYTES: usize = 48 << 10;

impl Sandbox {
    /// Runs evaluations of one component one after the other in one worker and
    /// returns their reports in order. The same as [`Sandbox::run`] on each,
    /// but several times faster where evaluations are short. Use several
    /// threads, each with a part, for several cores.
    ///
    /// # Errors
    /// As [`Sandbox::run`]; then no report is returned.
    pub fn run_many(
        &self,
        component: &Component,
        evaluations: &[Evaluation],
    ) -> Result<Vec<Report>, SandboxError> {
        self.run_many_with(component, evaluations, None)
    }

    /// The same, stopped by a handle: what did not run by then is reported as
    /// cancelled.
    ///
    /// # Errors
    /// As [`Sandbox::run_many`].
    pub fn run_many_with(
        &self,
        component: &Component,
        evaluations: &[Evaluation],
        cancel: Option<&CancelHandle>,
    ) -> Result<Vec<Report>, SandboxError> {
        for evaluation in evaluations {
            evaluation.limits.check()?;
        }
        let mut reports = Vec::with_capacity(evaluations.len());
        while let Some(evaluation) = evaluations.get(reports.len()) {
            let rest = &evaluations[reports.len()..];
            let purpose = Purpose::of(component, evaluation);
            let alike = rest.iter().take_while(|e| purpose.fits(component, e)).count();
            let before = reports.len();
            self.stretch(component, purpose, &rest[..alike], cancel, &mut reports)?;
            if reports.len() == before {
                // Alone, with the tries and the blame of a single evaluation.
                let options = RunOptions { cancel, ..RunOptions::default() };
                reports.push(self.run_with(component, evaluation, options)?);
            }
        }
        Ok(reports)
    }

    /// Sends evaluations of one purpose to one worker until all are answered
    /// or the worker is in doubt. An evaluation at which the worker broke is
    /// not reported: it is the first of what is left.
    fn stretch(
        &self,
        component: &Component,
        purpose: Purpose,
        evaluations: &[Evaluation],
        cancel: Option<&CancelHandle>,
        reports: &mut Vec<Report>,
    ) -> Result<(), SandboxError> {
        let Some(_permit) = self.enter(cancel)? else {
            let cancelled = Report::ended(Outcome::Cancelled { phase: Phase::Instantiate });
            reports.extend(evaluations.iter().map(|_| cancelled.clone()));
            return Ok(());
        };
        let [first, ..] = evaluations else { return Ok(()) };
        let mut worker = match self.acquire(component, first)? {
            Acquired::Worker(worker) => worker,
            Acquired::Outcome(outcome) if outcome.is_infrastructure() => return Ok(()),
            Acquired::Outcome(outcome) => {
                reports.extend(evaluations.iter().map(|_| Report::ended(outcome.clone())));
                return Ok(());
            }
        };
        let stops = stopped_by(cancel, &worker)?;
        let functions = self.functions(None)?;
        let attached = Session::new(functions, cancel, None).attached();
        let mut queue = Queue { attached, waiting: VecDeque::new(), bytes: 0, next: None };
        let mut to_send = evaluations.iter();
        let mut sound = true;
        for evaluation in evaluations {
            if queue.fill(&mut worker, &mut to_send).is_err() {
                sound = false;
                break;
            }
            // The worker begins with it now: what came before is answered.
            let start = Instant::now();
            let end = start + Duration::from_millis(evaluation.limits.wall_ms);
            let mut phase = evaluation.first_phase();
            let mut session = Session::new(functions, cancel, None);
            match session.wait(&mut worker, &evaluation.limits, end, &mut phase) {
                Ok(Answer::Done(report)) => {
                    let mut report = *report;
                    queue.answered();
                    report.timing.total_us = micros(start.elapsed());
                    sound = leaves_no_doubt(&report.outcome);
                    reports.push(report);
                }
                // Nothing is tried twice that had effects, or broke by itself.
                Err(broken) if session.had_effects() || !broken.is_of_the_machine() => {
                    reports.push(Report::ended(broken.outcome(phase)));
                    sound = false;
                }
                Ok(Answer::Called(_)) | Err(_) => sound = false,
            }
            if !sound {
                break;
            }
        }
        drop(stops);
        if sound && !cancel.is_some_and(CancelHandle::is_cancelled) {
            self.pool.keep(purpose, *worker);
        }
        Ok(())
    }
}

/// What was sent and not answered.
struct Queue {
    attached: Attached,
    /// Sizes of the requests.
    waiting: VecDeque<usize>,
    bytes: usize,
    /// Made, but there was no room for it.
    next: Option<Vec<u8>>,
}

impl Queue {
    /// Sends as much as may be ahead.
    fn fill<'a>(
        &mut self,
        worker: &mut Child,
        to_send: &mut impl Iterator<Item = &'a Evaluation>,
    ) -> Result<(), crate::child::ChildError> {
        while self.waiting.len() < AHEAD {
            let frame = match self.next.take() {
                Some(frame) => frame,
                None => match to_send.next() {
                    None => return Ok(()),
                    Some(evaluation) => wire::frame(&Request::Evaluate {
                        evaluation: Cow::Borrowed(evaluation),
                        attached: Cow::Borrowed(&self.attached),
                    })?,
                },
            };
            // The worker reads while nothing is unanswered, however much it is.
            if !self.waiting.is_empty() && self.bytes + frame.len() > AHEAD_BYTES {
                self.next = Some(frame);
                return Ok(());
            }
            worker.send_frame(&frame)?;
            self.bytes += frame.len();
            self.waiting.push_back(frame.len());
        }
        Ok(())
    }

    fn answered(&mut self) {
        self.bytes -= self.waiting.pop_front().unwrap_or(0);
    }
}
