//! From an untrusted core module to machine code, in a killable process.
//!
//! The child locks itself down, reads the module, and runs the whole path on
//! it: gate, metering, encoding, Cranelift. It answers with an [`Artifact`] or
//! with the reason why not. Compilers are attack surface, so nothing of this
//! path ever runs in the caller's process.

use crate::child::{Child, ChildError};
use crate::gate::{self, ModuleLimits};
use crate::lockdown::{self, Role};
use crate::{Limits, Outcome, Phase, World, encode, machine, meter, text, wire};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// What the child is asked to compile.
#[derive(Serialize, Deserialize)]
struct Request {
    world: World,
    limits: ModuleLimits,
    #[serde(with = "serde_bytes")]
    module: Vec<u8>,
}

/// Machine code for one component, with what is needed to run and explain it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Artifact {
    /// The world it implements.
    pub world: World,
    /// Offsets of the traps that mean "out of fuel", as they appear in the
    /// backtrace of the running component. Sorted.
    pub fuel_traps: Vec<u32>,
    /// The same for "call depth used up".
    pub depth_traps: Vec<u32>,
    /// Size of the core module as the compiler made it.
    pub wasm_bytes: u64,
    /// Bytes of linear memory that it starts with.
    pub memory_bytes: u64,
    /// Elements that its tables start with.
    pub table_elements: u64,
    /// wasmtime's serialised component.
    #[serde(with = "serde_bytes")]
    pub code: Vec<u8>,
}

impl Artifact {
    /// The outcome where it cannot even start within these limits.
    pub fn too_large_for(&self, limits: &Limits) -> Option<Outcome> {
        if self.memory_bytes > limits.memory_bytes {
            return Some(Outcome::MemoryLimit { limit: limits.memory_bytes });
        }
        (self.table_elements > limits.table_elements)
            .then_some(Outcome::TableLimit { limit: limits.table_elements })
    }
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Done(Artifact),
    Rejected(String),
    Failed(String),
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// The candidate's doing.
    #[error("{0}")]
    Candidate(Outcome),
    /// The host's.
    #[error("code generation: {0}")]
    Host(String),
    /// Somebody else killed the child: try again.
    #[error("the compiling process was killed from outside")]
    Killed,
}

/// Largest answer that is accepted from the child.
const MAX_ARTIFACT: usize = 256 << 20;

/// Compiles `module` in a child process started from `exe`.
pub fn compile(
    exe: &Path,
    module: &[u8],
    world: World,
    limits: &ModuleLimits,
    deadline: Duration,
) -> Result<Artifact, CodegenError> {
    if module.len() as u64 > limits.bytes {
        return Err(CodegenError::Candidate(Outcome::Rejected {
            reason: format!("the module has {} bytes; at most {} are accepted", module.len(), limits.bytes),
        }));
    }
    let host = |e: &dyn std::fmt::Display| CodegenError::Host(e.to_string());
    let mut child = Child::spawn(exe, "codegen").map_err(|e| host(&e))?;
    let request = Request { world, limits: limits.clone(), module: module.to_vec() };
    let answer = child.send(&request).and_then(|()| child.receive::<Answer>(MAX_ARTIFACT, deadline));
    match answer {
        Ok(Answer::Done(artifact)) => Ok(artifact),
        Ok(Answer::Rejected(reason)) => {
            Err(CodegenError::Candidate(Outcome::Rejected { reason: text::clean(&reason, 4_000) }))
        }
        Ok(Answer::Failed(reason)) => Err(host(&reason)),
        Err(ChildError::Deadline) => {
            Err(CodegenError::Candidate(Outcome::Deadline { phase: Phase::Codegen }))
        }
        Err(ChildError::Died { signal: libc::SIGKILL }) => Err(CodegenError::Killed),
        Err(ChildError::Died { signal: libc::SIGXCPU }) => {
            Err(CodegenError::Candidate(Outcome::Deadline { phase: Phase::Codegen }))
        }
        Err(ChildError::Died { signal: 0 }) => {
            Err(host(&"the child could not start; TERRARIUM_CHILD_STDERR=1 shows what it says"))
        }
        Err(ChildError::Died { signal }) => {
            Err(CodegenError::Candidate(Outcome::WorkerDied { signal, phase: Phase::Codegen }))
        }
        // An answer that is too large, or none: the module's doing too.
        Err(ChildError::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(CodegenError::Candidate(Outcome::Rejected { reason: format!("its machine code: {e}") }))
        }
        Err(ChildError::Io(e)) => Err(host(&e)),
    }
}

/// The child's side. Reads one request from standard input, answers there.
pub(crate) fn child_main(mut channel: impl std::io::Read + Write) -> Result<(), String> {
    lockdown::process(Role::Codegen).map_err(|e| e.to_string())?;
    lockdown::files().map_err(|e| e.to_string())?;
    let engine = machine::compiler().map_err(|e| format!("{e:#}"))?;
    compiler_threads()?;
    lockdown::calls(Role::Codegen).map_err(|e| e.to_string())?;
    let request: Request = wire::receive(&mut channel, MAX_ARTIFACT).map_err(|e| e.to_string())?;
    // A panic of a compiler or an encoder is about this module, not about the host.
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&engine, &request)))
        .unwrap_or_else(|panic| Answer::Rejected(format!("the compiler gave up on it: {}", said(&*panic))));
    wire::send(&mut channel, &answer).map_err(|e| e.to_string())
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

/// Starts the threads that Cranelift compiles functions on, all of them: after
/// the last filter none can be started, and one that is still starting would
/// be killed.
fn compiler_threads() -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .stack_size(16 << 20)
        .build_global()
        .map_err(|e| e.to_string())?;
    rayon::broadcast(|_| ());
    Ok(())
}

/// More threads than this do not pay for one candidate.
const MAX_THREADS: usize = 8;

fn work(engine: &wasmtime::Engine, request: &Request) -> Answer {
    let Request { world, limits, module } = request;
    let counted = match gate::check(module, limits, &encode::allowed_imports(*world)) {
        Ok(counted) => counted,
        Err(reason) => return Answer::Rejected(reason.to_string()),
    };
    let metered = match meter::instrument(module, &meter::MeterConfig::default()) {
        Ok(metered) => metered,
        Err(reason) => return Answer::Rejected(reason.to_string()),
    };
    let component = match encode::encode(&metered.module, *world) {
        Ok(component) => component,
        Err(reason) => return Answer::Rejected(reason.to_string()),
    };
    let Some(shift) = code_shift(&metered.module, &component) else {
        return Answer::Failed("the encoder changed the code section".into());
    };
    let moved = |offsets: &[u32]| offsets.iter().map(|o| o.wrapping_add(shift)).collect();
    match engine.precompile_component(&component) {
        Ok(code) => Answer::Done(Artifact {
            world: *world,
            fuel_traps: moved(&metered.out_of_fuel_offsets),
            depth_traps: moved(&metered.stack_depth_offsets),
            wasm_bytes: module.len() as u64,
            memory_bytes: counted.memory_pages << 16,
            table_elements: counted.table_elements,
            code,
        }),
        Err(e) => Answer::Rejected(format!("Cranelift: {e:#}")),
    }
}

/// How far the code section moved when the module became part of a component.
/// Trap offsets are counted from the start of the component.
fn code_shift(module: &[u8], component: &[u8]) -> Option<u32> {
    let code = code_section(module, 0)?;
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        if let Ok(wasmparser::Payload::ModuleSection { unchecked_range, .. }) = payload {
            let inner = component.get(unchecked_range.start..unchecked_range.end)?;
            if let Some(moved) = code_section(inner, unchecked_range.start)
                && component.get(moved.clone()) == module.get(code.clone())
            {
                return u32::try_from(moved.start).ok()?.checked_sub(u32::try_from(code.start).ok()?);
            }
        }
    }
    None
}

fn code_section(module: &[u8], base: usize) -> Option<std::ops::Range<usize>> {
    wasmparser::Parser::new(0).parse_all(module).find_map(|payload| match payload {
        Ok(wasmparser::Payload::CodeSectionStart { range, .. }) => Some(base + range.start..base + range.end),
        _ => None,
    })
}
