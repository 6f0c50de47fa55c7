//! The worker process: loads one component, locks itself down, serves
//! evaluations. One fresh store per evaluation.
//!
//! The parent decides what is loaded; the worker decides nothing but what an
//! [`Outcome`] was. Held-out data is mapped here, but never lies in the
//! guest's memory.

mod compute;
mod evaluate;
mod shards;
mod state;
mod train;
mod verdict;

use crate::codegen::Artifact;
use crate::isolation::Isolation;
use crate::lockdown::{Lockdown, Role};
use crate::{Evaluation, Phase, Report, Shards, World, machine, wire};
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;

/// What a worker is started with.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello {
    pub artifact: Artifact,
    pub shards: Option<Shards>,
    pub threads: usize,
    /// Ceilings of all evaluations that this worker will serve.
    pub memory_bytes: u64,
    pub table_elements: u64,
    pub device_bytes: u64,
    pub tensors: u64,
}

/// Messages from a worker.
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Loaded and locked down.
    Ready,
    /// Could not load.
    Failed(String),
    /// An evaluation reached this phase.
    Entered(Phase),
    /// An evaluation ended.
    Done(Box<Report>),
}

/// Largest message that a worker accepts.
const MAX_REQUEST: usize = 512 << 20;

/// The stack of the thread that runs guests: what wasmtime may use for guest
/// frames, and ample room for the host functions that they call.
const STACK_BYTES: usize = 8 * machine::WASM_STACK_BYTES;

pub(crate) fn child_main(mut channel: UnixStream, isolation: Isolation) -> Result<(), String> {
    let ready = Lockdown::begin(Role::Worker, isolation).map_err(|e| e.to_string()).and_then(|lockdown| {
        let hello = wire::receive::<Hello>(&mut channel, MAX_REQUEST).map_err(|e| e.to_string())?;
        prepare(hello, lockdown)
    });
    let (runner, lockdown) = match ready {
        Ok(ready) => ready,
        Err(reason) => {
            let _ = wire::send(&mut channel, &Reply::Failed(reason.clone()));
            return Err(reason);
        }
    };
    // The guest runs on a thread with a stack of known size. It is started
    // before the last filter, which binds all threads.
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || serve(runner, lockdown, channel))
        .map_err(|e| e.to_string())?
        .join()
        .map_err(|_| "the serving thread panicked".to_owned())?
}

/// What a worker may have in memory beyond what its guest and its device may:
/// the component, the stacks, and messages on their way (two copies of the
/// largest).
const OVERHEAD_BYTES: u64 = 3 << 30;

/// All memory of a worker, in bytes. A device may hold tensors and, while it
/// works, as much again.
pub(crate) fn memory(guest_bytes: u64, device_bytes: u64) -> u64 {
    guest_bytes.saturating_add(device_bytes.saturating_mul(2)).saturating_add(OVERHEAD_BYTES)
}

fn prepare(hello: Hello, mut lockdown: Lockdown) -> Result<(evaluate::Runner, Lockdown), String> {
    let shards = hello.shards.as_ref().map(shards::Mapped::open).transpose()?;
    lockdown.memory(memory(hello.memory_bytes, hello.device_bytes)).map_err(|e| e.to_string())?;
    let engine = machine::runner(hello.memory_bytes, hello.table_elements).map_err(|e| format!("{e:#}"))?;
    if hello.artifact.world == World::Trainer {
        terrarium_kernels::warm_up();
    }
    lockdown.files().map_err(|e| e.to_string())?;
    Ok((evaluate::Runner::new(engine, hello, shards)?, lockdown))
}

fn serve(mut runner: evaluate::Runner, lockdown: Lockdown, channel: UnixStream) -> Result<(), String> {
    if let Err(reason) = lockdown.calls() {
        let reason = reason.to_string();
        let _ = wire::send(&mut &channel, &Reply::Failed(reason.clone()));
        return Err(reason);
    }
    let (mut requests, mut replies) = (std::io::BufReader::new(&channel), &channel);
    wire::send(&mut replies, &Reply::Ready).map_err(|e| e.to_string())?;
    loop {
        let evaluation: Evaluation = match wire::receive(&mut requests, MAX_REQUEST) {
            Ok(evaluation) => evaluation,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e.to_string()),
        };
        // A phase that cannot be reported ends the worker with the next write.
        let report = runner.evaluate(&evaluation, &mut |phase| {
            let _ = wire::send(&mut replies, &Reply::Entered(phase));
        });
        wire::send(&mut replies, &Reply::Done(Box::new(report))).map_err(|e| e.to_string())?;
    }
}
