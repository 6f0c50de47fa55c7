//! Evaluation in the real sandbox.

use super::{BuildFacts, BuildFailure, BuildTime, CommandEvaluator, Evaluate, Evaluated, HostError, Split};
use crate::error::EngineError;
use crate::run::DataSnapshot;
use crate::seeds;
use crate::task::{EvaluatorConfig, Task};
use terrarium_sandbox::{
    BuildError, Component, Evaluation, Job, Knobs, Limits, Outcome, Product, Report, Sandbox, SandboxError,
    Shards, Source, World,
};

/// The least fuel that the sandbox accepts as a limit.
const LEAST_FUEL: u64 = 1_000;

/// Builds and evaluates the candidates of one task in a [`Sandbox`].
pub struct Sandboxed<'a> {
    sandbox: &'a Sandbox,
    task: &'a Task,
    data: Option<&'a DataSnapshot>,
    probe_secret: u64,
    identity: String,
    command: Option<CommandEvaluator>,
}

impl<'a> Sandboxed<'a> {
    /// For this task. `data` must be there for world `trainer`; whether it is
    /// still what it was is asked of [`DataSnapshot::verify`]. `probe_secret`
    /// decides where the honesty probes go: the run's, or a fresh one. Scores
    /// of honest candidates do not depend on it.
    pub fn new(
        sandbox: &'a Sandbox,
        task: &'a Task,
        data: Option<&'a DataSnapshot>,
        probe_secret: u64,
    ) -> Result<Self, EngineError> {
        if task.header.world == World::Trainer && data.is_none() {
            return Err(EngineError::Host {
                message: format!("task `{}` trains on a corpus, and none was given", task.header.name),
                hint: "`terrarium setup` prepares the default corpus; --data DIR uses your own".into(),
            });
        }
        let identity = sandbox.identity().map_err(|e| EngineError::from(host(&e)))?;
        let command = match &task.evaluator {
            Some(EvaluatorConfig::Command(program)) => {
                Some(CommandEvaluator::new(&program.command, program.deadline_s))
            }
            _ => None,
        };
        Ok(Self { sandbox, task, data, probe_secret, identity, command })
    }

    /// What the candidate is to do; each job in an instance of its own.
    fn jobs(&self, seed: u64, split: Split) -> Result<Vec<Job>, HostError> {
        if let Some(command) = &self.command {
            return Ok(vec![Job::Call { input: command.input(seed)? }]);
        }
        let scoring = self.task.evaluator.as_ref().and_then(EvaluatorConfig::scoring);
        match (&self.task.evaluation, scoring, self.data) {
            (Some(held_out), _, Some(data)) => Ok(vec![Job::Train {
                shards: Shards {
                    train: data.train.clone(),
                    held_out: match split {
                        Split::Selection | Split::Rung(_) => data.selection.clone(),
                        Split::Final => data.last.clone(),
                    },
                    token_bytes: data.token_bytes.clone(),
                },
                held_out: held_out.into(),
            }]),
            (None, Some(scoring), _) => Ok(scoring.jobs(seed, split)),
            // A validated task and the check in `new` leave nothing else.
            _ => Err(HostError {
                message: "the task says neither how to train nor what to call".into(),
                hint: "add [evaluation] and [data], or [evaluator], to task.toml".into(),
            }),
        }
    }

    /// The task's budget; on a rung, its share of it.
    fn limits(&self, split: Split) -> Limits {
        let mut limits = self.task.budget.clone();
        if let Split::Rung(rung) = split
            && let Some(config) = self.task.search.rungs.get(usize::from(rung))
        {
            // Training ends where its device fuel does; less of any other limit
            // would only make candidates fail.
            limits.device_fuel = ((limits.device_fuel as f64 * config.budget) as u64).max(1);
        }
        limits
    }

    /// The score of what a finished evaluation produced.
    fn score(&self, products: &[Product], seed: u64, split: Split) -> Result<f64, Outcome> {
        match (products, self.task.evaluator.as_ref().map(EvaluatorConfig::scoring)) {
            ([Product::HeldOut(score)], None) => Ok(score.bits_per_byte),
            (_, Some(Some(scoring))) => scoring.score(products, seed, split),
            _ => {
                Err(Outcome::InvalidOutput { reason: "nothing was produced that this task can score".into() })
            }
        }
    }
}

/// Adds what a further job of the same evaluation used and said. Claims are
/// kept of the first jobs only, as far as the limits go.
fn add(total: &mut Report, next: Report, limits: &Limits) {
    let (sum, more) = (&mut total.usage, next.usage);
    sum.fuel = sum.fuel.zip(more.fuel).map(|(a, b)| a.saturating_add(b));
    sum.device_fuel += more.device_fuel;
    sum.forward_device_fuel += more.forward_device_fuel;
    sum.device_ops += more.device_ops;
    sum.peak_memory_bytes = sum.peak_memory_bytes.max(more.peak_memory_bytes);
    sum.peak_device_bytes = sum.peak_device_bytes.max(more.peak_device_bytes);
    sum.host_calls += more.host_calls;
    for (name, cost) in more.device_profile {
        match sum.device_profile.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => *all = all.saturating_add(cost),
            None => sum.device_profile.push((name, cost)),
        }
    }
    sum.device_profile.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    for (name, range) in next.knobs {
        if !total.knobs.iter().any(|(known, _)| *known == name) {
            total.knobs.push((name, range));
        }
    }
    total.metrics.extend(next.metrics);
    total.metrics.truncate(usize::try_from(limits.metrics).unwrap_or(usize::MAX));
    let room = usize::try_from(limits.log_bytes).unwrap_or(usize::MAX).saturating_sub(total.log.len());
    total.log.extend(next.log.chars().take(room / 4));
    let (sum, more) = (&mut total.timing, next.timing);
    sum.instantiate_us += more.instantiate_us;
    sum.train_us += more.train_us;
    sum.kernel_us += more.kernel_us;
    sum.train_kernel_us += more.train_kernel_us;
    sum.total_us += more.total_us;
    total.outcome = next.outcome;
}

impl Evaluate for Sandboxed<'_> {
    type Built = Component;

    fn build(&self, source: &str) -> Result<Component, BuildFailure> {
        self.sandbox.compile(Source::Rust(source), self.task.header.world).map_err(|error| match error {
            BuildError::Candidate(outcome) => BuildFailure::Candidate(outcome),
            BuildError::Host(error) => BuildFailure::Host(host(&error)),
        })
    }

    fn facts(&self, built: &Component) -> BuildFacts {
        BuildFacts {
            component: built.id.clone(),
            wasm_bytes: built.wasm_bytes,
            code_bytes: built.code_bytes,
            cached: built.cached,
            time: BuildTime {
                rustc_us: built.timing.rustc_us,
                codegen_us: built.timing.codegen_us,
                total_us: built.timing.total_us,
            },
        }
    }

    fn evaluate(
        &self,
        built: &Component,
        knobs: &Knobs,
        seed: u64,
        split: Split,
    ) -> Result<Evaluated, HostError> {
        let jobs = self.jobs(seed, split)?;
        let mut evaluation = Evaluation {
            seed,
            probe_key: seeds::derive(self.probe_secret, "probe", &[seed, split.number()]),
            knobs: knobs.clone(),
            job: Job::Calls { inputs: Vec::new() },
            limits: self.limits(split),
        };
        let mut products = Vec::with_capacity(jobs.len());
        let mut total: Option<Report> = None;
        for job in jobs {
            evaluation.job = job;
            let mut next = self.sandbox.run(built, &evaluation).map_err(|e| host(&e))?;
            // What is left of the budget is what the next job may use.
            let fuel = next.usage.fuel.unwrap_or(evaluation.limits.fuel);
            evaluation.limits.fuel = evaluation.limits.fuel.saturating_sub(fuel).max(LEAST_FUEL);
            products.extend(next.product.take());
            let report = match total.take() {
                None => next,
                Some(mut all) => {
                    add(&mut all, next, &self.task.budget);
                    all
                }
            };
            let finished = report.outcome.is_finished();
            total = Some(report);
            if !finished {
                break;
            }
        }
        let report = total.ok_or_else(|| HostError {
            message: "the task asks nothing of its candidates".into(),
            hint: "its evaluator must make at least one call".into(),
        })?;
        let (outcome, score) = if report.outcome.is_finished() {
            let scored = match (&self.command, products.as_slice()) {
                (Some(command), [Product::Output(bytes)]) => command.score(seed, bytes)?,
                (_, products) => self.score(products, seed, split),
            };
            match scored {
                Ok(score) => (Outcome::Finished, Some(score)),
                Err(outcome) => (outcome, None),
            }
        } else {
            (report.outcome, None)
        };
        Ok(Evaluated {
            outcome,
            score,
            usage: report.usage,
            knobs: report.knobs,
            metrics: report.metrics,
            log: report.log,
            timing: report.timing,
        })
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }
}

fn host(error: &SandboxError) -> HostError {
    HostError { message: error.to_string(), hint: error.hint() }
}
