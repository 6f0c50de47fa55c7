//! One evaluation: a fresh store, one job, one report. Or an instance of a
//! `function` that is called several times in one store.

use super::link::SharedLink;
use super::shards::Mapped;
use super::state::{State, function, plain, trainer};
use super::{Attached, Called, Hello, NotReady, Reply, train, verdict, wasi};
use crate::child::{DeviceRequest, NamedDevice};
use crate::codegen::Artifact;
use crate::machine::Metering;
use crate::{Evaluation, Job, Outcome, Phase, Product, Report, Timing, Usage, World, text};
use serde_bytes::ByteBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terrarium_kernels as kernels;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};

/// What the host may spend on lifting the lists of one call.
const HOSTCALL_BYTES: usize = 256 << 20;

enum Ready {
    Trainer(trainer::MeteredTrainerPre<State>),
    Function(function::MeteredFunctionPre<State>),
    /// The same world, metered by the engine.
    Plain(plain::FunctionPre<State>),
    Command(wasi::CommandPre<State>),
}

/// An instance of the world `function`, whoever counts its instructions.
enum Function {
    Metered(function::MeteredFunction),
    Plain(plain::Function),
}

impl Function {
    /// Gives it so much fuel for the next call; `spent` is what it used before.
    fn set_fuel(&self, store: &mut Store<State>, fuel: u64, spent: u64) -> wasmtime::Result<()> {
        match self {
            Self::Metered(guest) => guest.call_terrarium_fuel_set(store, signed(fuel)),
            Self::Plain(_) => {
                store.data_mut().fuel_given = (spent, fuel);
                store.set_fuel(fuel)
            }
        }
    }

    /// What is left of it, where it can still be asked.
    fn fuel_left(&self, store: &mut Store<State>) -> Option<u64> {
        match self {
            Self::Metered(guest) => guest.call_terrarium_fuel_get(store).ok().map(unsigned),
            Self::Plain(_) => store.get_fuel().ok(),
        }
    }

    fn call(&self, store: &mut Store<State>, input: &[u8]) -> wasmtime::Result<Result<Vec<u8>, String>> {
        match self {
            Self::Metered(guest) => guest.call_call(store, input),
            Self::Plain(guest) => guest.call_call(store, input),
        }
    }
}

/// A loaded component and its device, ready for any number of evaluations.
pub(super) struct Runner {
    engine: Engine,
    ready: Ready,
    artifact: Artifact,
    shards: Option<Arc<Mapped>>,
    device: Option<kernels::Device>,
    named: NamedDevice,
    request: DeviceRequest,
    ahead: Option<Ahead>,
}

/// An instance that was made before its evaluation was known. It has run
/// nothing of the guest's.
struct Ahead {
    store: Store<State>,
    guest: function::MeteredFunction,
    took: Duration,
}

/// An instance between its calls.
pub(super) struct Live {
    store: Store<State>,
    guest: Function,
    /// Fuel of all calls so far.
    fuel: u64,
}

impl Live {
    /// The answer to `Open`.
    pub fn opened(&self) -> Called {
        Called {
            result: Ok(ByteBuf::new()),
            fuel: Some(self.fuel),
            usage: usage(self.store.data(), Some(self.fuel)),
        }
    }
}

impl Runner {
    pub fn new(
        engine: Engine,
        hello: Hello<'_>,
        named: NamedDevice,
        shards: Option<Mapped>,
    ) -> Result<Self, NotReady> {
        let mut artifact = hello.artifact.into_owned();
        let code = std::mem::take(&mut artifact.code);
        // SAFETY: the code comes from our own parent over our own socket, which
        // read it from the cache that only our own compiling process writes and
        // checked its content address. wasmtime checks version and settings.
        // What is left to fail is that the component needs more memory or
        // tables from the start than its limits allow.
        let component = unsafe { Component::deserialize(&engine, &code) }
            .map_err(|e| NotReady::Refused(format!("{e:#}")))?;
        // Made now: it needs a call that the lock-down takes away.
        component.initialize_copy_on_write_image().map_err(|e| format!("{e:#}"))?;
        let mut linker = Linker::<State>::new(&engine);
        if artifact.wasi {
            wasi::add_to_linker(&mut linker).map_err(|e| format!("{e:#}"))?;
        }
        let ready = match (artifact.metering, artifact.world) {
            (Metering::Engine, World::Command) => {
                linker.instantiate_pre(&component).and_then(wasi::CommandPre::new).map(Ready::Command)
            }
            (Metering::Engine, _) => plain::Function::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
                .and_then(|()| linker.instantiate_pre(&component))
                .and_then(plain::FunctionPre::new)
                .map(Ready::Plain),
            (Metering::Module, World::Trainer) => {
                trainer::MeteredTrainer::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
                    .and_then(|()| linker.instantiate_pre(&component))
                    .and_then(trainer::MeteredTrainerPre::new)
                    .map(Ready::Trainer)
            }
            (Metering::Module, _) => {
                function::MeteredFunction::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
                    .and_then(|()| linker.instantiate_pre(&component))
                    .and_then(function::MeteredFunctionPre::new)
                    .map(Ready::Function)
            }
        }
        .map_err(|e| match artifact.metering {
            // Its imports and exports are checked nowhere else.
            Metering::Engine => NotReady::Refused(format!("{e:#}")),
            Metering::Module => NotReady::Failed(format!("{e:#}")),
        })?;
        let request = DeviceRequest {
            // No other world has anything to compute on it.
            threads: if artifact.world == World::Trainer { hello.threads } else { 1 },
            max_bytes: hello.device_bytes,
            max_tensors: u32::try_from(hello.tensors).unwrap_or(u32::MAX),
        };
        // The device's threads must exist before the last filter.
        let device = (named.open)(&request).map_err(|e| format!("device `{}`: {e}", named.name))?;
        Ok(Self {
            engine,
            ready,
            artifact,
            shards: shards.map(Arc::new),
            device: Some(device),
            named,
            request,
            ahead: None,
        })
    }

    /// A store for an evaluation, and the instance in it where there is one.
    fn begin(
        &mut self,
        evaluation: Evaluation,
        attached: Attached,
        link: &SharedLink,
    ) -> Result<(Store<State>, Option<function::MeteredFunction>, Duration), Outcome> {
        let start = Instant::now();
        if let Some(Ahead { mut store, guest, took }) = self.ahead.take() {
            store.data_mut().begin(evaluation, attached);
            return Ok((store, Some(guest), took + start.elapsed()));
        }
        let store = self.store(evaluation, attached, link)?;
        Ok((store, None, start.elapsed()))
    }

    fn store(
        &mut self,
        evaluation: Evaluation,
        attached: Attached,
        link: &SharedLink,
    ) -> Result<Store<State>, Outcome> {
        let device = match self.device.take() {
            Some(device) => Ok(device),
            None => (self.named.open)(&self.request),
        }
        .map_err(|e| Outcome::DeviceLost { reason: e.to_string() })?;
        let wasi = self.artifact.wasi.then(|| Box::new(wasi::Context::new(&evaluation, self.artifact.world)));
        let mut state = State::new(device, evaluation, self.shards.clone(), attached, link.clone());
        state.wasi = wasi;
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.set_max_component_handles(wasi::HANDLES);
        Ok(store)
    }

    /// A whole evaluation. The report can be sent before what is left of the
    /// guest is given [back](Self::give_back).
    pub fn evaluate(
        &mut self,
        evaluation: Evaluation,
        attached: Attached,
        link: &SharedLink,
    ) -> (Report, Option<Store<State>>) {
        let start = Instant::now();
        let fuel_limit = evaluation.limits.fuel;
        let (mut store, guest, took) = match self.begin(evaluation, attached, link) {
            Ok(begun) => begun,
            Err(outcome) => return (Report::ended(outcome), None),
        };
        let mut timing = Timing { instantiate_us: micros(took), ..Timing::default() };
        let (mut result, mut fuel) = self.run(&mut store, guest, &mut timing, link);
        let state = store.data_mut();
        wasi::log(state);
        // What the embedder's functions cost comes on top of the guest's own.
        fuel = fuel.map(|fuel| fuel.saturating_add(state.host_use.fuel));
        // Whatever the guest made of the refusals that followed.
        if let Some(reason) = state.device.lost() {
            result = Err(Outcome::DeviceLost { reason });
        }
        if result.is_ok() && fuel.is_some_and(|fuel| fuel > fuel_limit) {
            result = Err(Outcome::OutOfFuel { phase: state.phase });
        }
        let (outcome, product) = match result {
            Ok(product) => (Outcome::Finished, Some(product)),
            Err(outcome) => (outcome, None),
        };
        // A guest that trapped cannot be asked; one that ran out used it all.
        let fuel = match outcome {
            Outcome::OutOfFuel { .. } => Some(fuel_limit),
            _ => fuel,
        };
        timing.kernel_us = micros(state.kernel_time);
        timing.total_us = micros(start.elapsed());
        timing.steps = state.native_peer.take().map(|peer| peer.steps).unwrap_or_default();
        let report = Report {
            outcome,
            product,
            knobs: std::mem::take(&mut state.knobs),
            metrics: std::mem::take(&mut state.metrics),
            log: std::mem::take(&mut state.log),
            usage: usage(state, fuel),
            timing,
        };
        (report, Some(store))
    }

    /// The guest ends. Every tensor goes; the next evaluation gets zeroed
    /// memory and no handle that this one held.
    pub fn give_back(&mut self, store: Store<State>) {
        self.recover(store.into_data().device);
    }

    fn recover(&mut self, mut device: kernels::Device) {
        device.reset();
        self.device = Some(device);
    }

    /// The same after an evaluation, with the instance for the next one made
    /// now, where that runs nothing of the guest's. All evaluations of a worker
    /// have the ceilings that matter here.
    pub fn turn_over(&mut self, store: Store<State>, link: &SharedLink) {
        let State { device, evaluation, attached, .. } = store.into_data();
        self.recover(device);
        let Ready::Function(pre) = &self.ready else { return };
        if self.artifact.starts {
            return;
        }
        let start = Instant::now();
        let pre = pre.clone();
        let Ok(mut store) = self.store(evaluation, attached, link) else { return };
        match pre.instantiate(&mut store) {
            Ok(guest) => self.ahead = Some(Ahead { store, guest, took: start.elapsed() }),
            // The evaluation that tries again says what is wrong.
            Err(_) => self.give_back(store),
        }
    }

    /// An instance of a `function`, for any number of calls.
    pub fn open(
        &mut self,
        evaluation: Evaluation,
        attached: Attached,
        link: &SharedLink,
    ) -> Result<Live, Outcome> {
        let budget = evaluation.limits.fuel;
        let (mut store, guest, _) = self.begin(evaluation, attached, link)?;
        match self.function(&mut store, guest, budget) {
            // What instantiation used of the engine's fuel is not counted:
            // every call is given its own.
            Ok(guest) => Ok(Live { store, guest, fuel: 0 }),
            Err(outcome) => {
                self.give_back(store);
                Err(outcome)
            }
        }
    }

    /// Ends an instance, if there is one.
    pub fn close(&mut self, live: Option<Live>) {
        if let Some(live) = live {
            self.give_back(live.store);
        }
    }

    /// One call of an instance, with at most `fuel` of what is left to it.
    pub fn call(&self, live: &mut Live, input: &[u8], fuel: u64) -> Called {
        let Live { store, guest, fuel: spent } = live;
        let total = store.data().evaluation.limits.fuel;
        let budget = fuel.min(total.saturating_sub(*spent));
        let host_fuel = store.data().host_use.fuel;
        store.data_mut().fuel_limit = host_fuel.saturating_add(budget);
        store.data_mut().phase = Phase::Call;
        store.data_mut().memory_refused = None;
        let result = guest.set_fuel(store, budget, *spent).and_then(|()| guest.call(store, input));
        let result = self.flatten(result, store, Phase::Call).and_then(|output| within(store, output));
        wasi::log(store.data_mut());
        let own = guest.fuel_left(store);
        let of_host = store.data().host_use.fuel - host_fuel;
        let used = own.map(|left| (budget - left.min(budget)).saturating_add(of_host));
        let (result, used) = match (result, used) {
            (Err(Outcome::OutOfFuel { phase }), _) => (Err(Outcome::OutOfFuel { phase }), Some(budget)),
            (_, Some(used)) if used > budget => {
                (Err(Outcome::OutOfFuel { phase: Phase::Call }), Some(budget))
            }
            (result, used) => (result, used),
        };
        *spent = spent.saturating_add(used.unwrap_or(0));
        Called { result: result.map(ByteBuf::from), fuel: used, usage: usage(store.data(), Some(*spent)) }
    }

    fn run(
        &self,
        store: &mut Store<State>,
        guest: Option<function::MeteredFunction>,
        timing: &mut Timing,
        link: &SharedLink,
    ) -> (Result<Product, Outcome>, Option<u64>) {
        let limit = store.data().evaluation.limits.fuel;
        let budget = signed(limit);
        let used = |left: wasmtime::Result<i64>| left.ok().map(|left| limit.saturating_sub(unsigned(left)));
        let start = Instant::now();
        match &self.ready {
            Ready::Command(pre) => self.command(pre, store, timing),
            Ready::Function(_) | Ready::Plain(_) => {
                let guest = match self.function(store, guest, limit) {
                    Ok(guest) => guest,
                    Err(outcome) => return (Err(outcome), None),
                };
                timing.instantiate_us += micros(start.elapsed());
                store.data_mut().phase = Phase::Call;
                let job = std::mem::replace(
                    &mut store.data_mut().evaluation.job,
                    Job::Calls { inputs: Vec::new() },
                );
                let mut left = store.data().evaluation.limits.output_bytes;
                let start = Instant::now();
                let result = match job {
                    Job::Call { input } => {
                        self.next_call(&guest, store, &input, &mut left).map(Product::Output)
                    }
                    Job::Calls { inputs } => {
                        let calls =
                            inputs.iter().map(|input| self.next_call(&guest, store, input, &mut left));
                        calls.collect::<Result<_, _>>().map(Product::Outputs)
                    }
                    Job::Train { .. } => return (Err(mismatch(World::Function)), None),
                };
                timing.train_us = micros(start.elapsed());
                let fuel = guest.fuel_left(store).map(|left| limit.saturating_sub(left));
                (result, fuel)
            }
            Ready::Trainer(pre) => {
                let guest = match pre.instantiate(&mut *store).and_then(|guest| {
                    guest.call_terrarium_fuel_set(&mut *store, budget)?;
                    Ok(guest)
                }) {
                    Ok(guest) => guest,
                    Err(e) => return (Err(self.outcome(&e, store, Phase::Instantiate)), None),
                };
                timing.instantiate_us += micros(start.elapsed());
                let Job::Train { held_out, .. } = store.data().evaluation.job.clone() else {
                    return (Err(mismatch(World::Trainer)), None);
                };
                // A phase that cannot be reported ends the worker with the next write.
                let mut entered = |phase| drop(link.send(&Reply::Entered(phase)));
                let result = train::run(self, &guest, store, &held_out, timing, &mut entered);
                let fuel = used(guest.call_terrarium_fuel_get(&mut *store));
                (result.map(Product::HeldOut), fuel)
            }
        }
    }

    /// One `call`; its output is taken off the bytes that are `left`.
    fn next_call(
        &self,
        guest: &Function,
        store: &mut Store<State>,
        input: &[u8],
        left: &mut u64,
    ) -> Result<Vec<u8>, Outcome> {
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        let result = guest.call(store, input);
        let output = self.flatten(result, store, Phase::Call)?;
        let limit = store.data().evaluation.limits.output_bytes;
        *left = left.checked_sub(output.len() as u64).ok_or(Outcome::OutputTooLarge {
            bytes: (limit - *left).saturating_add(output.len() as u64),
            limit,
        })?;
        Ok(output)
    }

    /// An instance of the world `function`, this one or a fresh one, that may
    /// use so much fuel.
    fn function(
        &self,
        store: &mut Store<State>,
        guest: Option<function::MeteredFunction>,
        fuel: u64,
    ) -> Result<Function, Outcome> {
        let instance = match &self.ready {
            Ready::Trainer(_) | Ready::Command(_) => return Err(mismatch(self.artifact.world)),
            Ready::Function(pre) => guest
                .map_or_else(|| pre.instantiate(&mut *store), Ok)
                .map(Function::Metered)
                .and_then(|guest| {
                    guest.set_fuel(store, fuel, 0)?;
                    Ok(guest)
                }),
            Ready::Plain(pre) => {
                give_fuel(store, fuel).and_then(|()| pre.instantiate(&mut *store)).map(Function::Plain)
            }
        };
        instance.map_err(|e| self.outcome(&e, store, Phase::Instantiate))
    }

    /// A program's `main`: what it wrote to standard output, if it ended well.
    fn command(
        &self,
        pre: &wasi::CommandPre<State>,
        store: &mut Store<State>,
        timing: &mut Timing,
    ) -> (Result<Product, Outcome>, Option<u64>) {
        let limit = store.data().evaluation.limits.fuel;
        if !matches!(store.data().evaluation.job, Job::Call { .. }) {
            return (Err(mismatch(World::Command)), None);
        }
        let start = Instant::now();
        let guest = match give_fuel(store, limit).and_then(|()| pre.instantiate(&mut *store)) {
            Ok(guest) => guest,
            Err(e) => return (Err(self.outcome(&e, store, Phase::Instantiate)), None),
        };
        timing.instantiate_us += micros(start.elapsed());
        store.data_mut().phase = Phase::Call;
        let start = Instant::now();
        let result = guest.wasi_cli_run().call_run(&mut *store);
        timing.train_us = micros(start.elapsed());
        let well = match &result {
            Ok(result) => result.is_ok(),
            Err(e) => e.downcast_ref::<wasmtime_wasi::I32Exit>().is_some_and(|exit| exit.0 == 0),
        };
        let result = match (well, result, &store.data().wasi) {
            (true, _, Some(wasi)) => within(store, wasi.output()).map(Product::Output),
            (_, Ok(_), Some(wasi)) => Err(Outcome::GuestError {
                phase: Phase::Call,
                message: wasi.failure("the program ended with an error"),
            }),
            (_, Err(e), _) => Err(self.outcome(&e, store, Phase::Call)),
            (_, Ok(_), None) => Err(mismatch(World::Command)),
        };
        (result, store.get_fuel().ok().map(|left| limit.saturating_sub(left)))
    }

    /// Whether its guest may import WASI.
    pub fn wasi(&self) -> bool {
        self.artifact.wasi
    }

    /// The outcome of a call that did not return.
    pub fn outcome(&self, error: &wasmtime::Error, store: &mut Store<State>, phase: Phase) -> Outcome {
        let state = store.data_mut();
        let wasi = state.wasi.as_ref().and_then(|wasi| wasi.verdict(error, state));
        let known = verdict::Known {
            verdict: state.verdict.take().or(wasi),
            memory_refused: state.memory_refused,
            table_refused: state.table_refused,
        };
        verdict::of_error(error, phase, known, &self.artifact)
    }

    /// A call's value, or the outcome that its failure means.
    pub fn flatten<T>(
        &self,
        result: wasmtime::Result<Result<T, String>>,
        store: &mut Store<State>,
        phase: Phase,
    ) -> Result<T, Outcome> {
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(message)) => {
                let state = store.data();
                Err(if state.budget_refused {
                    Outcome::DeviceFuel { phase }
                } else if let Some(limit) = state.memory_refused {
                    Outcome::MemoryLimit { limit }
                } else {
                    Outcome::GuestError { phase, message: text::clean(&message, 4_000) }
                })
            }
            Err(e) => Err(self.outcome(&e, store, phase)),
        }
    }
}

/// Fuel for a store whose engine counts.
fn give_fuel(store: &mut Store<State>, fuel: u64) -> wasmtime::Result<()> {
    store.data_mut().fuel_given = (0, fuel);
    store.set_fuel(fuel)
}

fn mismatch(world: World) -> Outcome {
    Outcome::Rejected { reason: format!("a `{}` component was given another world's job", world.name()) }
}

/// The output of `call`, if it is not too large.
fn within(store: &Store<State>, output: Vec<u8>) -> Result<Vec<u8>, Outcome> {
    let limit = store.data().evaluation.limits.output_bytes;
    if output.len() as u64 > limit {
        return Err(Outcome::OutputTooLarge { bytes: output.len() as u64, limit });
    }
    Ok(output)
}

fn usage(state: &State, fuel: Option<u64>) -> Usage {
    let mut profile: Vec<_> = state.profile.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect();
    profile.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Usage {
        fuel,
        device_fuel: state.train_fuel,
        forward_device_fuel: state.forward_fuel,
        device_ops: state.device_ops,
        device_profile: profile,
        peak_memory_bytes: state.peak_memory,
        peak_device_bytes: state.device.usage().peak_bytes,
        host_calls: state.host_calls,
    }
}

/// Fuel as the guest's counter holds it.
fn signed(fuel: u64) -> i64 {
    i64::try_from(fuel).unwrap_or(i64::MAX)
}

/// What is left in the counter; one that ran out is below zero.
fn unsigned(left: i64) -> u64 {
    u64::try_from(left).unwrap_or(0)
}

pub(super) fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
