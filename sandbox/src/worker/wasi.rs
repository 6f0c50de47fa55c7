//! WASI for guests that import it: a world that holds nothing.
//!
//! | what | what the guest finds |
//! | --- | --- |
//! | environment, arguments, working folder | none |
//! | files | no preopened folder, so no path can be named |
//! | sockets, names | refused before a system call is made |
//! | wall clock | stands still at [`EPOCH_SECONDS`] |
//! | monotonic clock | one nanosecond for each unit of fuel, and what was slept |
//! | sleeping, polling | never waits: the clock is moved to the next timer |
//! | random numbers | a stream that follows from the evaluation's seed |
//! | standard input | the input of a command; empty elsewhere |
//! | standard output | the output of a command; the log elsewhere |
//! | standard error | the log |
//!
//! Types, streams, files and sockets are those of `wasmtime-wasi`, with a
//! context that grants nothing. Clocks, polling and random numbers are our
//! own, because they must neither wait nor differ between runs, and must cost
//! fuel. Nothing here needs a thread, a timer or a descriptor, so the
//! worker's lock-down is the same as without WASI.

mod clock;
mod random;
mod sink;

use super::state::State;
use crate::{Evaluation, Job, Outcome, World, text};
use clock::Clock;
use sink::{Overflow, Sink};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, ResourceTable, ResourceTableError};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{HostWallClock, WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::sync as wasi;
pub(super) use wasmtime_wasi::p2::bindings::sync::CommandPre;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

/// What the wall clock shows: the first second of the year 2000, UTC.
const EPOCH_SECONDS: u64 = 946_684_800;

/// Streams, timers and errors that a guest may hold at once.
pub(super) const HANDLES: usize = 4_096;

/// Fuel of one call of ours.
const CALL_FUEL: u64 = 100;

/// The host's side of one evaluation's WASI.
pub(super) struct Context {
    ctx: WasiCtx,
    table: ResourceTable,
    clock: Arc<Clock>,
    /// Random numbers drawn, from each of the two sources.
    drawn: [u64; 2],
    /// Output of a command; the log elsewhere.
    stdout: Sink,
    stderr: Sink,
}

impl Context {
    pub fn new(evaluation: &Evaluation, world: World) -> Self {
        let limits = &evaluation.limits;
        let room = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let stderr = Sink::new(room(limits.log_bytes), Overflow::Drop);
        let (input, stdout) = match (world, &evaluation.job) {
            (World::Command, Job::Call { input }) => {
                (input.clone(), Sink::new(room(limits.output_bytes), Overflow::End))
            }
            _ => (Vec::new(), stderr.clone()),
        };
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let ctx = WasiCtx::builder()
            .stdin(MemoryInputPipe::new(input))
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .wall_clock(FrozenClock)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Self { ctx, table, clock: Arc::default(), drawn: [0; 2], stdout, stderr }
    }

    /// What a command wrote to standard output.
    pub fn output(&self) -> Vec<u8> {
        self.stdout.take()
    }

    /// What was written to standard error, and by other guests than commands
    /// to standard output.
    pub fn said(&self) -> Vec<u8> {
        self.stderr.take()
    }

    /// The outcome, if it was this side that ended the evaluation: with too
    /// much output, too many handles or an exit.
    pub fn verdict(&self, error: &wasmtime::Error, state: &State) -> Option<Outcome> {
        let limits = &state.evaluation.limits;
        if let Some(bytes) = self.stdout.refused() {
            return Some(Outcome::OutputTooLarge { bytes, limit: limits.output_bytes });
        }
        if let Some(ResourceTableError::Full) = error.downcast_ref() {
            return Some(Outcome::Quota { which: "wasi_handles".into(), limit: HANDLES as u64 });
        }
        let I32Exit(status) = error.downcast_ref()?;
        let message = self.failure(&format!("the program ended with status {status}"));
        Some(Outcome::GuestError { phase: state.phase, message })
    }

    /// The message of a failed program, with its last words.
    pub fn failure(&self, what: &str) -> String {
        let words = self.stderr.last(500);
        text::clean(&format!("{what}\n{}", String::from_utf8_lossy(&words)), 1_000).trim_end().to_owned()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi();
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl State {
    /// The context that WASI's functions work on. They are only linked where
    /// there is one; anything else would get one that grants nothing.
    fn wasi(&mut self) -> &mut Context {
        let evaluation = &self.evaluation;
        self.wasi.get_or_insert_with(|| Box::new(Context::new(evaluation, World::Function)))
    }
}

/// Moves what a guest said on its streams to its log.
pub(super) fn log(state: &mut State) {
    let said = state.wasi.as_ref().map(|wasi| wasi.said()).unwrap_or_default();
    if !said.is_empty() {
        let text = String::from_utf8_lossy(&said);
        // A parent that is gone will be noticed with the answer.
        let _ = state.keep(text.trim_end_matches('\n'));
    }
}

/// `wasmtime-wasi` runs its futures on the runtime that it finds, or starts
/// one with threads. All futures here are ready at once, so one without
/// threads, timers or events does. Made before the lock-down.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())
}

/// Everything of WASI 0.2 that a command may import.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::sockets;
    let l = linker;
    clock::add_to_linker(l)?;
    random::add_to_linker(l)?;
    fn table(state: &mut State) -> &mut ResourceTable {
        &mut state.wasi().table
    }
    wasmtime_wasi_io::bindings::wasi::io::error::add_to_linker::<State, Io>(l, table)?;
    wasi::io::streams::add_to_linker::<State, Io>(l, table)?;
    wasi::clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    wasi::cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    wasi::filesystem::preopens::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    wasi::filesystem::types::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    wasi::sockets::network::add_to_linker::<State, WasiSockets>(l, &Default::default(), State::sockets)?;
    sockets::instance_network::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    wasi::sockets::tcp::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    wasi::sockets::udp::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    wasi::sockets::udp_create_socket::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    Ok(())
}

/// The table of handles, as `wasi:io` wants to see it.
struct Io;
impl wasmtime::component::HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

struct FrozenClock;
impl HostWallClock for FrozenClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }
    fn now(&self) -> Duration {
        Duration::from_secs(EPOCH_SECONDS)
    }
}

/// Counts a call, charges fuel for it, and says what is left.
fn charge(store: &mut StoreContextMut<'_, State>, fuel: u64) -> wasmtime::Result<u64> {
    store.data_mut().count_call()?;
    let left = store.get_fuel()?;
    match left.checked_sub(fuel) {
        Some(left) => {
            store.set_fuel(left)?;
            Ok(left)
        }
        None => {
            store.set_fuel(0)?;
            Err(wasmtime::Trap::OutOfFuel.into())
        }
    }
}
