//! One conversation with a worker: what is said between a request and its
//! answer. The worker is not believed: what it forwards is counted and checked
//! again here.

use crate::cancel::CancelHandle;
use crate::child::{Child, ChildError};
use crate::host::{Abandoned, Caller, HostFunctions};
use crate::worker::{Attached, Called, Reply, Request};
use crate::{Limits, Outcome, Phase, Report, text};
use serde_bytes::ByteBuf;
use std::time::Instant;

/// What the caller brings, and what was used of it.
pub(super) struct Session<'a> {
    functions: &'a HostFunctions,
    cancel: Option<&'a CancelHandle>,
    on_log: Option<&'a mut (dyn FnMut(&str) + 'a)>,
    /// Whether each training step is driven once more from Rust.
    native_peer: bool,
    caller: Option<Caller>,
    tally: Tally,
}

/// What one evaluation, or one instance, used.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    /// Calls of host functions, and bytes to and from them.
    calls: u64,
    bytes: u64,
    /// Whether one of them ran.
    ran: bool,
    /// Log lines that came in this try, and their bytes.
    lines: u64,
    log_bytes: u64,
    /// Lines that the caller has, of all tries.
    delivered: u64,
}

/// The answer to a request.
pub(super) enum Answer {
    Done(Box<Report>),
    Called(Box<Called>),
}

/// Why there is none. The worker is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Deadline,
    Cancelled,
    /// `signal` 0: it exited.
    Died {
        signal: i32,
    },
    /// It said what no worker says.
    Garbled,
}

impl Broken {
    /// Whether a fresh worker may do better; see [`super::run`].
    pub(super) fn is_of_the_machine(self) -> bool {
        matches!(self, Self::Died { signal: libc::SIGKILL | libc::SIGTERM } | Self::Garbled)
    }

    /// The outcome that this means when the candidate is to blame.
    pub(super) fn outcome(self, phase: Phase) -> Outcome {
        match self {
            Self::Deadline => Outcome::Deadline { phase },
            Self::Cancelled => Outcome::Cancelled { phase },
            Self::Died { signal } => Outcome::WorkerDied { signal, phase },
            Self::Garbled => Outcome::WorkerDied { signal: 0, phase },
        }
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(
        functions: &'a HostFunctions,
        cancel: Option<&'a CancelHandle>,
        on_log: Option<&'a mut (dyn FnMut(&str) + 'a)>,
    ) -> Self {
        Self { functions, cancel, on_log, native_peer: false, caller: None, tally: Tally::default() }
    }

    /// The same, with each step of a training driven once more from Rust.
    pub(super) fn beside_native(mut self, native_peer: bool) -> Self {
        self.native_peer = native_peer;
        self
    }

    /// One that goes on counting where another left off.
    pub(super) fn resume(mut self, tally: Tally) -> Self {
        self.tally = tally;
        self
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// What the worker is told of it.
    pub(super) fn attached(&self) -> Attached {
        Attached {
            functions: self.functions.names().map(str::to_owned).collect(),
            logs: self.on_log.is_some(),
            native_peer: self.native_peer,
        }
    }

    /// Another try of the same evaluation. The caller has its first lines.
    pub(super) fn next_try(&mut self) {
        (self.tally.log_bytes, self.tally.lines) = (0, 0);
    }

    /// Whether a host function was called: then the evaluation had effects
    /// that another try would repeat.
    pub(super) fn had_effects(&self) -> bool {
        self.tally.ran
    }

    /// Waits for the answer until `end`. `phase` follows what the worker says.
    pub(super) fn wait(
        &mut self,
        worker: &mut Child,
        limits: &Limits,
        end: Instant,
        phase: &mut Phase,
    ) -> Result<Answer, Broken> {
        let most = self.largest_reply(limits);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match worker.receive(most, left) {
                Ok(Reply::Done(mut report)) => {
                    report.distrust(limits);
                    return Ok(Answer::Done(report));
                }
                Ok(Reply::Called(mut called)) => {
                    called.distrust(limits);
                    return Ok(Answer::Called(called));
                }
                Ok(Reply::Entered(now)) => *phase = now,
                Ok(Reply::Log(line)) => self.log(&line, limits),
                Ok(Reply::HostCall { name, input }) => self.host_call(worker, &name, input, limits, end)?,
                Ok(Reply::Ready | Reply::Refused(_) | Reply::Failed(_)) => return Err(self.garbled(worker)),
                Err(e) => return Err(self.of_child(e)),
            }
        }
    }

    /// The largest message that an honest worker can have to send. One that was
    /// taken over could otherwise fill the host's memory: a message of empty
    /// lists takes twenty times its bytes once it is read.
    fn largest_reply(&self, limits: &Limits) -> usize {
        // Outcome, knobs, usage, a number for each of some 400,000 windows, and
        // what names and lengths take.
        const REST: u64 = 4 << 20;
        // A metric's numbers and the names of its fields; a byte of a list.
        const METRIC: u64 = 128;
        const BYTE: u64 = 2;
        let functions = if self.functions.names().next().is_some() { limits.host_function_bytes } else { 0 };
        // Of a benchmark: steps of some 100 bytes.
        let steps = if self.native_peer { 128 * crate::worker::MAX_STEPS as u64 } else { 0 };
        let parts = [
            limits.output_bytes.saturating_mul(BYTE),
            limits.metrics.saturating_mul(METRIC),
            limits.log_bytes,
            functions,
            steps,
        ];
        let most = parts.into_iter().fold(REST, u64::saturating_add).min(512 << 20);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// What a failure of the channel means.
    pub(super) fn of_child(&self, error: ChildError) -> Broken {
        self.broken(match error {
            ChildError::Deadline => Broken::Deadline,
            ChildError::Died { signal } => Broken::Died { signal },
            ChildError::Io(_) => Broken::Garbled,
        })
    }

    pub(super) fn garbled(&self, worker: &mut Child) -> Broken {
        worker.kill();
        self.broken(Broken::Garbled)
    }

    /// A worker that ended because the caller wanted it has no other reason.
    fn broken(&self, broken: Broken) -> Broken {
        if self.cancel.is_some_and(CancelHandle::is_cancelled) { Broken::Cancelled } else { broken }
    }

    fn log(&mut self, line: &str, limits: &Limits) {
        let tally = &mut self.tally;
        // The worker keeps to the limit; one that was taken over may not.
        let left = limits.log_bytes.saturating_sub(tally.log_bytes);
        if left == 0 {
            return;
        }
        let line = text::clean(line, usize::try_from(left).unwrap_or(usize::MAX));
        tally.log_bytes = tally.log_bytes.saturating_add(line.len() as u64 + 1);
        tally.lines += 1;
        if tally.lines > tally.delivered {
            tally.delivered = tally.lines;
            if let Some(on_log) = &mut self.on_log {
                on_log(&line);
            }
        }
    }

    fn host_call(
        &mut self,
        worker: &mut Child,
        name: &str,
        input: Vec<u8>,
        limits: &Limits,
        end: Instant,
    ) -> Result<(), Broken> {
        self.tally.calls += 1;
        self.tally.bytes = self.tally.bytes.saturating_add(input.len() as u64);
        // A worker refuses these itself; one that does not was taken over.
        let honest =
            self.tally.calls <= limits.host_function_calls && self.tally.bytes <= limits.host_function_bytes;
        let (Some(function), true) = (self.functions.get(name), honest) else {
            return Err(self.garbled(worker));
        };
        let started = match self.caller.take() {
            Some(caller) => Ok(caller),
            None => Caller::start(),
        };
        let answer = match started {
            Err(e) => Err(format!("the host cannot run its functions: {e}")),
            Ok(caller) => {
                let left = end.saturating_duration_since(Instant::now());
                self.tally.ran = true;
                match caller.call(function, input, left, self.cancel) {
                    Ok(answer) => {
                        self.caller = Some(caller);
                        answer
                    }
                    // The thread stays with the function that it is in.
                    Err(abandoned) => {
                        worker.kill();
                        return Err(match abandoned {
                            Abandoned::Deadline => Broken::Deadline,
                            Abandoned::Cancelled => Broken::Cancelled,
                        });
                    }
                }
            }
        };
        // More than the limit is not sent: that there is more than it allows,
        // the worker learns from one byte beyond.
        let most = usize::try_from(limits.host_function_bytes).unwrap_or(usize::MAX).saturating_add(1);
        let answer = answer.map(|mut output| {
            self.tally.bytes = self.tally.bytes.saturating_add(output.len() as u64);
            output.truncate(most);
            ByteBuf::from(output)
        });
        worker.send(&Request::HostAnswer(answer)).map_err(|e| self.of_child(e))
    }
}
