//! One evaluation: a fresh store, one job, one report.

use super::shards::Mapped;
use super::state::{State, function, trainer};
use super::{Hello, train, verdict};
use crate::codegen::Artifact;
use crate::{Evaluation, Job, Outcome, Phase, Product, Report, Timing, Usage, World, text};
use std::sync::Arc;
use std::time::Instant;
use terrarium_kernels as kernels;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};

/// What the host may spend on lifting the lists of one call.
const HOSTCALL_BYTES: usize = 256 << 20;

enum Ready {
    Trainer(trainer::MeteredTrainerPre<State>),
    Function(function::MeteredFunctionPre<State>),
}

/// A loaded component and its device, ready for any number of evaluations.
pub(super) struct Runner {
    engine: Engine,
    ready: Ready,
    artifact: Artifact,
    shards: Option<Arc<Mapped>>,
    device: Option<kernels::Device>,
    device_config: kernels::CpuConfig,
}

impl Runner {
    pub fn new(engine: Engine, hello: Hello, shards: Option<Mapped>) -> Result<Self, String> {
        let mut artifact = hello.artifact;
        let code = std::mem::take(&mut artifact.code);
        // SAFETY: the code comes from our own parent over our own socket, which
        // read it from the cache that only our own compiling process writes and
        // checked its content address. wasmtime checks version and settings.
        let component = unsafe { Component::deserialize(&engine, &code) }.map_err(|e| format!("{e:#}"))?;
        // Made now: it needs a call that the lock-down takes away.
        component.initialize_copy_on_write_image().map_err(|e| format!("{e:#}"))?;
        let mut linker = Linker::<State>::new(&engine);
        let ready = match artifact.world {
            World::Trainer => trainer::MeteredTrainer::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
                .and_then(|()| linker.instantiate_pre(&component))
                .and_then(trainer::MeteredTrainerPre::new)
                .map(Ready::Trainer),
            World::Function => {
                function::MeteredFunction::add_to_linker::<_, HasSelf<State>>(&mut linker, |s| s)
                    .and_then(|()| linker.instantiate_pre(&component))
                    .and_then(function::MeteredFunctionPre::new)
                    .map(Ready::Function)
            }
        }
        .map_err(|e| format!("{e:#}"))?;
        let device_config = kernels::CpuConfig {
            threads: hello.threads,
            max_bytes: hello.device_bytes,
            max_tensors: u32::try_from(hello.tensors).unwrap_or(u32::MAX),
        };
        // The device's threads must exist before the last filter.
        let device = kernels::Device::cpu(device_config.clone()).map_err(|e| e.to_string())?;
        Ok(Self {
            engine,
            ready,
            artifact,
            shards: shards.map(Arc::new),
            device: Some(device),
            device_config,
        })
    }

    pub fn evaluate(&mut self, evaluation: &Evaluation, entered: &mut dyn FnMut(Phase)) -> Report {
        let start = Instant::now();
        let device = match self.device.take() {
            Some(device) => Ok(device),
            None => kernels::Device::cpu(self.device_config.clone()),
        };
        let device = match device {
            Ok(device) => device,
            Err(e) => return lost(&e),
        };
        let mut store = Store::new(&self.engine, State::new(device, evaluation.clone(), self.shards.clone()));
        store.limiter(|state| state);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        let mut timing = Timing::default();
        let (result, fuel) = self.run(&mut store, &mut timing, entered);

        let mut state = store.into_data();
        let (outcome, product) = match result {
            Ok(product) => (Outcome::Finished, Some(product)),
            Err(outcome) => (outcome, None),
        };
        // A guest that trapped cannot be asked; one that ran out used it all.
        let fuel = match outcome {
            Outcome::OutOfFuel { .. } => Some(evaluation.limits.fuel),
            _ => fuel,
        };
        let mut profile: Vec<_> =
            std::mem::take(&mut state.profile).into_iter().map(|(n, c)| (n.to_owned(), c)).collect();
        profile.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        timing.kernel_us = micros(state.kernel_time);
        timing.total_us = micros(start.elapsed());
        let report = Report {
            outcome,
            product,
            knobs: std::mem::take(&mut state.knobs),
            metrics: std::mem::take(&mut state.metrics),
            log: std::mem::take(&mut state.log),
            usage: Usage {
                fuel,
                device_fuel: state.train_fuel,
                forward_device_fuel: state.forward_fuel,
                device_ops: state.device_ops,
                device_profile: profile,
                peak_memory_bytes: state.peak_memory,
                peak_device_bytes: state.device.usage().peak_bytes,
                host_calls: state.host_calls,
            },
            timing,
        };
        // Every tensor goes; the next evaluation gets zeroed memory and no
        // handle that this one held.
        state.device.reset();
        self.device = Some(state.device);
        report
    }

    fn run(
        &self,
        store: &mut Store<State>,
        timing: &mut Timing,
        entered: &mut dyn FnMut(Phase),
    ) -> (Result<Product, Outcome>, Option<u64>) {
        let limit = store.data().evaluation.limits.fuel;
        let budget = i64::try_from(limit).unwrap_or(i64::MAX);
        let used =
            |left: wasmtime::Result<i64>| left.ok().map(|left| limit.saturating_sub(left.max(0) as u64));
        let start = Instant::now();
        match &self.ready {
            Ready::Function(pre) => {
                let guest = match pre.instantiate(&mut *store).and_then(|guest| {
                    guest.call_terrarium_fuel_set(&mut *store, budget)?;
                    Ok(guest)
                }) {
                    Ok(guest) => guest,
                    Err(e) => return (Err(self.outcome(&e, store, Phase::Instantiate)), None),
                };
                timing.instantiate_us = micros(start.elapsed());
                store.data_mut().phase = Phase::Call;
                let start = Instant::now();
                let mut left = store.data().evaluation.limits.output_bytes;
                let result = match store.data().evaluation.job.clone() {
                    Job::Call { input } => self.call(&guest, store, &input, &mut left).map(Product::Output),
                    Job::Calls { inputs } => {
                        let calls = inputs.iter().map(|input| self.call(&guest, store, input, &mut left));
                        calls.collect::<Result<_, _>>().map(Product::Outputs)
                    }
                    Job::Train { .. } => return (Err(mismatch(World::Function)), None),
                };
                timing.train_us = micros(start.elapsed());
                let fuel = used(guest.call_terrarium_fuel_get(&mut *store));
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
                timing.instantiate_us = micros(start.elapsed());
                let Job::Train { held_out, .. } = store.data().evaluation.job.clone() else {
                    return (Err(mismatch(World::Trainer)), None);
                };
                let result = train::run(self, &guest, store, &held_out, timing, entered);
                let fuel = used(guest.call_terrarium_fuel_get(&mut *store));
                (result.map(Product::HeldOut), fuel)
            }
        }
    }

    /// One `call`; its output is taken off the bytes that are `left`.
    fn call(
        &self,
        guest: &function::MeteredFunction,
        store: &mut Store<State>,
        input: &[u8],
        left: &mut u64,
    ) -> Result<Vec<u8>, Outcome> {
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        let result = guest.call_call(&mut *store, input);
        let output = self.flatten(result, store, Phase::Call)?;
        let limit = store.data().evaluation.limits.output_bytes;
        *left = left.checked_sub(output.len() as u64).ok_or(Outcome::OutputTooLarge {
            bytes: (limit - *left).saturating_add(output.len() as u64),
            limit,
        })?;
        Ok(output)
    }

    /// The outcome of a call that did not return.
    pub fn outcome(&self, error: &wasmtime::Error, store: &mut Store<State>, phase: Phase) -> Outcome {
        let state = store.data_mut();
        let known = verdict::Known {
            verdict: state.verdict.take(),
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

fn mismatch(world: World) -> Outcome {
    Outcome::Rejected { reason: format!("a `{}` component was given another world's job", world.name()) }
}

fn lost(e: &kernels::Error) -> Report {
    Report {
        outcome: Outcome::DeviceLost { reason: e.to_string() },
        product: None,
        knobs: Vec::new(),
        metrics: Vec::new(),
        log: String::new(),
        usage: Usage::default(),
        timing: Timing::default(),
    }
}

pub(super) fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
