//! The worker process: loads one component, locks itself down, serves
//! evaluations. One fresh store per evaluation.
//!
//! The parent decides what is loaded; the worker decides nothing but what an
//! [`Outcome`] was. Held-out data is mapped here, but never lies in the
//! guest's memory.

mod compute;
mod evaluate;
mod host;
mod link;
mod native_peer;
mod operations;
mod shards;
mod state;
#[cfg(test)]
mod tests;
mod train;
mod verdict;
mod wasi;

use crate::child::NamedDevice;
use crate::codegen::Artifact;
use crate::isolation::Isolation;
use crate::lockdown::{self, Lockdown, Role};
use crate::{Evaluation, Outcome, Phase, Report, Shards, Usage, World, machine, wire};
use link::{Link, SharedLink};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::borrow::Cow;
use std::os::unix::net::UnixStream;

pub(crate) use native_peer::MAX_STEPS;

/// What a worker is started with.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello<'a> {
    /// The parent's [`machine::build`].
    pub build: Cow<'a, str>,
    pub artifact: Cow<'a, Artifact>,
    pub shards: Option<Shards>,
    /// Name of the device, as the executable registered it.
    pub device: String,
    pub threads: usize,
    /// Ceilings of all evaluations that this worker will serve.
    pub memory_bytes: u64,
    pub table_elements: u64,
    pub device_bytes: u64,
    pub tensors: u64,
}

/// What the caller of an evaluation or an instance takes part in while it runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Attached {
    /// Names of the host functions that may be called.
    pub functions: Vec<String>,
    /// Whether log lines are sent as they come.
    pub logs: bool,
    /// Whether each step of a training is driven once more from Rust.
    #[serde(default)]
    pub native_peer: bool,
}

/// Messages to a worker.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    /// One evaluation in a fresh store: answered by `Done`.
    Evaluate { evaluation: Cow<'a, Evaluation>, attached: Cow<'a, Attached> },
    /// An instance that lives until the next `Open` or `Evaluate`: answered by
    /// `Called`, with empty output.
    Open { evaluation: Cow<'a, Evaluation>, attached: Cow<'a, Attached> },
    /// One call of that instance, with at most so much fuel: answered by
    /// `Called`.
    Call {
        #[serde(with = "serde_bytes")]
        input: Vec<u8>,
        fuel: u64,
    },
    /// The answer to `HostCall`.
    HostAnswer(Result<ByteBuf, String>),
}

/// Messages from a worker.
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Loaded and locked down.
    Ready,
    /// The component does not fit the ceilings, or its world.
    Refused(String),
    /// Could not load.
    Failed(String),
    /// An evaluation reached this phase.
    Entered(Phase),
    /// The guest logged this line.
    Log(String),
    /// The guest calls a host function, and waits.
    HostCall {
        name: String,
        #[serde(with = "serde_bytes")]
        input: Vec<u8>,
    },
    /// An evaluation ended.
    Done(Box<Report>),
    /// A call of an instance ended.
    Called(Box<Called>),
}

/// One call of an instance.
#[derive(Serialize, Deserialize)]
pub(crate) struct Called {
    /// What it returned, or how it ended.
    pub result: Result<ByteBuf, Outcome>,
    /// Fuel of this call, where the guest could still be asked.
    pub fuel: Option<u64>,
    /// Of the instance so far.
    pub usage: Usage,
}

/// Largest message that a worker accepts.
const MAX_REQUEST: usize = 512 << 20;

// Guests run on the main thread: another would cost a tenth of a millisecond
// to start. Beside their frames there is ample room for the host functions
// that they call.
const _: () = assert!(lockdown::STACK_BYTES >= 4 * machine::WASM_STACK_BYTES as u64);

/// Why a worker did not get ready.
enum NotReady {
    /// The component's doing.
    Refused(String),
    /// The host's.
    Failed(String),
}

impl From<String> for NotReady {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

pub(crate) fn child_main(
    mut channel: UnixStream,
    devices: &[NamedDevice],
    isolation: Isolation,
) -> Result<(), String> {
    let ready = Lockdown::begin(Role::Worker, isolation)
        .map_err(|e| NotReady::Failed(e.to_string()))
        .and_then(|lockdown| prepare(greeting(&mut channel)?, devices, lockdown));
    let (runner, lockdown) = match ready {
        Ok(ready) => ready,
        Err(not_ready) => {
            let (reply, reason) = match not_ready {
                NotReady::Refused(reason) => (Reply::Refused(reason.clone()), reason),
                NotReady::Failed(reason) => (Reply::Failed(reason.clone()), reason),
            };
            let _ = wire::send(&mut channel, &reply);
            return Err(reason);
        }
    };
    serve(runner, lockdown, channel)
}

/// What a worker may have in memory beyond what its guest and its device may:
/// the component, the stacks, and messages on their way (two copies of the
/// largest).
const OVERHEAD_BYTES: u64 = 3 << 30;

/// All memory of a worker, in bytes. A device may hold tensors, for which huge
/// pages may take a third more than was asked for, and needs room to work.
pub(crate) fn memory(guest_bytes: u64, device_bytes: u64) -> u64 {
    guest_bytes.saturating_add(device_bytes.saturating_mul(2)).saturating_add(OVERHEAD_BYTES)
}

/// What the parent starts this worker with, if it is of the same build.
fn greeting(channel: &mut UnixStream) -> Result<Hello<'static>, String> {
    let hello = wire::receive::<Hello<'static>>(channel, MAX_REQUEST).map_err(|e| e.to_string())?;
    machine::same_build(&hello.build)?;
    Ok(hello)
}

fn prepare(
    hello: Hello<'_>,
    devices: &[NamedDevice],
    mut lockdown: Lockdown,
) -> Result<(evaluate::Runner, Lockdown), NotReady> {
    let shards = hello.shards.as_ref().map(shards::Mapped::open).transpose()?;
    lockdown.memory(memory(hello.memory_bytes, hello.device_bytes)).map_err(|e| e.to_string())?;
    let device = devices.iter().copied().find(|device| device.name == hello.device).ok_or_else(|| {
        let known: Vec<_> = devices.iter().map(|device| device.name).collect();
        format!("the child's executable has no device `{}`, only: {}", hello.device, known.join(", "))
    })?;
    if hello.artifact.world == World::Trainer {
        terrarium_kernels::warm_up();
    }
    lockdown.files().map_err(|e| e.to_string())?;
    // After that: it looks up the control group four times, if it finds one.
    let engine = machine::runner(hello.memory_bytes, hello.table_elements, hello.artifact.metering)
        .map_err(|e| format!("{e:#}"))?;
    Ok((evaluate::Runner::new(engine, hello, device, shards)?, lockdown))
}

fn serve(mut runner: evaluate::Runner, lockdown: Lockdown, channel: UnixStream) -> Result<(), String> {
    let link = SharedLink::new(Link::new(channel));
    let runtime = runner.wasi().then(wasi::runtime).transpose()?;
    let _entered = runtime.as_ref().map(|runtime| runtime.enter());
    if let Err(reason) = lockdown.calls() {
        let reason = reason.to_string();
        let _ = link.send(&Reply::Failed(reason.clone()));
        return Err(reason);
    }
    link.send(&Reply::Ready)?;
    let mut live: Option<evaluate::Live> = None;
    while let Some(request) = link.next()? {
        let mut ended = None;
        let reply = match request {
            Request::Evaluate { evaluation, attached } => {
                runner.close(live.take());
                let (evaluation, attached) = (evaluation.into_owned(), attached.into_owned());
                let (report, store) = runner.evaluate(evaluation, attached, &link);
                ended = store;
                Reply::Done(Box::new(report))
            }
            Request::Open { evaluation, attached } => {
                runner.close(live.take());
                let opened = runner.open(evaluation.into_owned(), attached.into_owned(), &link);
                let (called, instance) = match opened {
                    Ok(instance) => (instance.opened(), Some(instance)),
                    Err(outcome) => (Called::ended(outcome), None),
                };
                live = instance;
                Reply::Called(Box::new(called))
            }
            Request::Call { input, fuel } => {
                let instance = live.as_mut().ok_or("a call without an instance")?;
                Reply::Called(Box::new(runner.call(instance, &input, fuel)))
            }
            Request::HostAnswer(_) => return Err("an answer that nothing waits for".into()),
        };
        link.send(&reply)?;
        // While the parent reads the reply.
        if let Some(store) = ended {
            runner.turn_over(store, &link);
        }
    }
    Ok(())
}

impl Called {
    /// As [`Report::distrust`].
    pub(crate) fn distrust(&mut self, limits: &crate::Limits) {
        if let Ok(output) = &self.result
            && output.len() as u64 > limits.output_bytes
        {
            let bytes = output.len() as u64;
            self.result = Err(Outcome::OutputTooLarge { bytes, limit: limits.output_bytes });
        }
        if let Err(outcome) = &mut self.result {
            outcome.distrust();
        }
    }

    /// Of an instance that did not come to be.
    fn ended(outcome: Outcome) -> Self {
        Self { result: Err(outcome), fuel: None, usage: Usage::default() }
    }
}
