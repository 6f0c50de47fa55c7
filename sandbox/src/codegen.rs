//! From an untrusted core module to machine code, in a killable process.
//!
//! The child locks itself down, reads the module, and runs the whole path on
//! it: gate, metering, encoding, Cranelift. It answers with an [`Artifact`] or
//! with the reason why not. Compilers are attack surface, so nothing of this
//! path ever runs in the caller's process.
//!
//! A module of our own worlds is metered by the pass in [`crate::meter`]. A
//! component that somebody else put together, or a module that imports WASI
//! (where it is on), is counted by wasmtime's fuel instead.

use crate::child::{Child, ChildError, Children, Start};
use crate::gate::{self, ComponentLimits, ModuleLimits, Rejection};
use crate::isolation::Isolation;
use crate::lockdown::{Lockdown, Role};
use crate::machine::Metering;
use crate::{Limits, Outcome, Phase, World, encode, machine, meter, text, wire};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// What is to be compiled, and by which rules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The parent's [`machine::build`].
    pub build: String,
    pub world: World,
    pub form: Form,
    /// Whether it may import WASI.
    pub wasi: bool,
    pub module: ModuleLimits,
    pub component: ComponentLimits,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// What the bytes of a [`Request`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Form {
    /// A core module.
    Module,
    /// A core module in text format.
    Text,
    /// A component.
    Component,
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
    /// Who counts its instructions.
    pub metering: Metering,
    /// Whether it may import WASI.
    pub wasi: bool,
    /// Whether instantiation runs code of the guest's, or may.
    pub starts: bool,
    /// Size of the core module or component as it was given.
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

/// Memory that the child may have where it has a control group, in bytes.
const CODEGEN_BYTES: u64 = 4 << 30;

/// Largest answer that is accepted from the child.
const MAX_ARTIFACT: usize = 256 << 20;

/// Compiles in a child process started from `exe`, or one of `children` that
/// was started ahead.
pub(crate) fn compile(
    children: &Children,
    exe: &Path,
    request: &Request,
    deadline: Duration,
    isolation: Isolation,
) -> Result<Artifact, CodegenError> {
    let (size, allowed) = (request.bytes.len() as u64, request.most_bytes());
    if size > allowed {
        return Err(CodegenError::Candidate(Outcome::Rejected {
            reason: format!("the module has {size} bytes; at most {allowed} are accepted"),
        }));
    }
    let host = |e: &dyn std::fmt::Display| CodegenError::Host(e.to_string());
    let start =
        Start { exe: exe.to_owned(), role: "codegen", isolation, files: Vec::new(), memory: CODEGEN_BYTES };
    let mut child = Child::next(children, &start).map_err(|e| host(&e))?;
    let sent = child.send(request);
    child.prepare(children, start);
    let answer = sent.and_then(|()| child.receive::<Answer>(MAX_ARTIFACT, deadline));
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
pub(crate) fn child_main(
    mut channel: impl std::io::Read + Write,
    isolation: Isolation,
) -> Result<(), String> {
    let engines = match prepare(isolation) {
        Ok(engines) => engines,
        Err(reason) => {
            let _ = wire::send(&mut channel, &Answer::Failed(reason.clone()));
            return Err(reason);
        }
    };
    let request: Request = wire::receive(&mut channel, MAX_ARTIFACT).map_err(|e| e.to_string())?;
    // A panic of a compiler or an encoder is about this module, not about the host.
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&engines, &request)))
        .unwrap_or_else(|panic| Answer::Rejected(format!("the compiler gave up on it: {}", said(&*panic))));
    wire::send(&mut channel, &answer).map_err(|e| e.to_string())
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

fn prepare(isolation: Isolation) -> Result<Engines, String> {
    let mut lockdown = Lockdown::begin(Role::Codegen, isolation).map_err(|e| e.to_string())?;
    lockdown.files().map_err(|e| e.to_string())?;
    let engine = |metering| machine::compiler(metering).map_err(|e| format!("{e:#}"));
    let engines = Engines { module: engine(Metering::Module)?, engine: engine(Metering::Engine)? };
    compiler_threads()?;
    lockdown.calls().map_err(|e| e.to_string())?;
    Ok(engines)
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

impl Request {
    fn most_bytes(&self) -> u64 {
        match self.form {
            Form::Module | Form::Text => self.module.bytes,
            Form::Component => self.component.bytes,
        }
    }
}

/// One for each way of metering.
struct Engines {
    module: wasmtime::Engine,
    engine: wasmtime::Engine,
}

fn work(engines: &Engines, request: &Request) -> Answer {
    if let Err(reason) = machine::same_build(&request.build) {
        return Answer::Failed(reason);
    }
    let module = |bytes: &[u8]| match encode::imports_wasi(bytes) {
        true => adapted(&engines.engine, request, bytes),
        false => own(&engines.module, request, bytes),
    };
    let result = match request.form {
        Form::Component => foreign(&engines.engine, request, &request.bytes),
        Form::Module => module(&request.bytes),
        Form::Text => binary(&request.bytes).map_err(refused).and_then(|bytes| module(&bytes)),
    };
    result.unwrap_or_else(|answer| answer)
}

/// A module in text format as a binary one. Parsed here, in the locked-down
/// process: a parser that recurses too deep takes only this process with it.
fn binary(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|e| format!("the text is not UTF-8: {e}"))?;
    wat::parse_str(text).map_err(|e| e.to_string())
}

fn refused(reason: impl std::fmt::Display) -> Answer {
    Answer::Rejected(reason.to_string())
}

/// A module of one of our worlds.
fn own(engine: &wasmtime::Engine, request: &Request, bytes: &[u8]) -> Result<Answer, Answer> {
    let Request { world, module, .. } = request;
    if *world == World::Command {
        return Err(refused("a command imports WASI and exports `_start`; this module does not"));
    }
    let counted = gate::check(bytes, module, &encode::allowed_imports(*world)).map_err(refused)?;
    let metered = meter::instrument(bytes, &meter::MeterConfig::default()).map_err(refused)?;
    let component = encode::encode(&metered.module, *world).map_err(refused)?;
    let Some(shift) = code_shift(&metered.module, &component) else {
        return Err(Answer::Failed("the encoder changed the code section".into()));
    };
    let moved = |offsets: &[u32]| offsets.iter().map(|o| o.wrapping_add(shift)).collect();
    let code = machine_code(engine, &component)?;
    Ok(Answer::Done(Artifact {
        world: *world,
        fuel_traps: moved(&metered.out_of_fuel_offsets),
        depth_traps: moved(&metered.stack_depth_offsets),
        metering: Metering::Module,
        wasi: false,
        starts: metered.starts,
        wasm_bytes: bytes.len() as u64,
        memory_bytes: counted.memory_pages << 16,
        table_elements: counted.table_elements,
        code,
    }))
}

/// A module that imports the older WASI.
fn adapted(engine: &wasmtime::Engine, request: &Request, bytes: &[u8]) -> Result<Answer, Answer> {
    let Request { world, module, wasi, .. } = request;
    if !wasi || *world == World::Trainer {
        return Err(refused(Rejection::WasiIsOff { interface: "wasi_snapshot_preview1".into() }));
    }
    gate::check(bytes, module, &encode::allowed_with_wasi(*world, bytes)).map_err(refused)?;
    let component = encode::adapt(bytes, *world).map_err(refused)?;
    foreign(engine, request, &component)
}

/// A component that we did not encode ourselves, or not alone.
fn foreign(engine: &wasmtime::Engine, request: &Request, component: &[u8]) -> Result<Answer, Answer> {
    let Request { world, module, bytes, wasi, .. } = request;
    if *world == World::Trainer {
        return Err(refused("a component can implement the worlds `function` and `command` only"));
    }
    gate::check_component(component, &request.component, module, *wasi).map_err(refused)?;
    Ok(Answer::Done(Artifact {
        world: *world,
        fuel_traps: Vec::new(),
        depth_traps: Vec::new(),
        metering: Metering::Engine,
        wasi: *wasi,
        starts: true,
        wasm_bytes: bytes.len() as u64,
        // What it starts with is counted when it is loaded.
        memory_bytes: 0,
        table_elements: 0,
        code: machine_code(engine, component)?,
    }))
}

fn machine_code(engine: &wasmtime::Engine, component: &[u8]) -> Result<Vec<u8>, Answer> {
    engine.precompile_component(component).map_err(|e| Answer::Rejected(format!("Cranelift: {e:#}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_of_another_build_gets_nothing_compiled() {
        let engine = || machine::compiler(Metering::Module).unwrap();
        let engines = Engines { module: engine(), engine: engine() };
        let answer = |build: &str| {
            let request = Request {
                build: build.into(),
                world: World::Function,
                form: Form::Text,
                wasi: false,
                module: ModuleLimits::default(),
                component: ComponentLimits::default(),
                bytes: b"(module)".to_vec(),
            };
            work(&engines, &request)
        };
        assert!(matches!(answer("an older one"), Answer::Failed(reason) if reason.contains("an older one")));
        // Its own reads the module, which implements nothing.
        assert!(matches!(answer(machine::build()), Answer::Rejected(_)));
    }
}
