//! The worker process: loads one component, locks itself down, serves
//! evaluations. One fresh store per evaluation.
//!
//! The parent decides what is loaded; the worker decides nothing but what an
//! [`Outcome`] was. Held-out data is mapped here, but never lies in the
//! guest's memory.

mod compute;
mod evaluate;
mod operations;
mod shards;
mod state;
mod train;
mod verdict;

use crate::codegen::Artifact;
use crate::lockdown::{self, Role};
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

pub(crate) fn child_main(mut channel: UnixStream) -> Result<(), String> {
    let ready = lockdown::process(Role::Worker)
        .map_err(|e| e.to_string())
        .and_then(|()| wire::receive::<Hello>(&mut channel, MAX_REQUEST).map_err(|e| e.to_string()))
        .and_then(prepare);
    let runner = match ready {
        Ok(runner) => runner,
        Err(reason) => {
            let _ = wire::send(&mut channel, &Reply::Failed(reason.clone()));
            return Err(reason);
        }
    };
    // The guest runs on a thread with a stack of known size. It is started
    // before the last filter, which binds all threads.
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || serve(runner, channel))
        .map_err(|e| e.to_string())?
        .join()
        .map_err(|_| "the serving thread panicked".to_owned())?
}

fn prepare(hello: Hello) -> Result<evaluate::Runner, String> {
    let shards = hello.shards.as_ref().map(shards::Mapped::open).transpose()?;
    let engine = machine::runner(hello.memory_bytes, hello.table_elements).map_err(|e| format!("{e:#}"))?;
    if hello.artifact.world == World::Trainer {
        terrarium_kernels::warm_up();
    }
    lockdown::files().map_err(|e| e.to_string())?;
    evaluate::Runner::new(engine, hello, shards)
}

fn serve(mut runner: evaluate::Runner, channel: UnixStream) -> Result<(), String> {
    lockdown::calls(Role::Worker).map_err(|e| e.to_string())?;
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
