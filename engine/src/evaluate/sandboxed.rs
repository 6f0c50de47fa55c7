//! Evaluation in the real sandbox.

use super::{BuildFacts, BuildFailure, BuildTime, Evaluate, Evaluated, HostError, Split};
use crate::error::EngineError;
use crate::run::DataSnapshot;
use crate::scoring;
use crate::seeds;
use crate::task::{EvaluatorConfig, Task};
use terrarium_sandbox::{
    BuildError, Component, Evaluation, Job, Knobs, Outcome, Product, Sandbox, SandboxError, Shards, Source,
    World,
};

/// Builds and evaluates the candidates of one task in a [`Sandbox`].
pub struct Sandboxed<'a> {
    sandbox: &'a Sandbox,
    task: &'a Task,
    data: Option<&'a DataSnapshot>,
    probe_secret: u64,
    identity: String,
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
        Ok(Self { sandbox, task, data, probe_secret, identity })
    }

    fn job(&self, seed: u64, split: Split) -> Result<Job, HostError> {
        match (&self.task.evaluation, &self.task.evaluator, self.data) {
            (Some(held_out), _, Some(data)) => Ok(Job::Train {
                shards: Shards {
                    train: data.train.clone(),
                    held_out: match split {
                        Split::Selection => data.selection.clone(),
                        Split::Final => data.last.clone(),
                    },
                },
                held_out: held_out.into(),
            }),
            (None, Some(EvaluatorConfig::Circles { n }), _) => {
                Ok(Job::Call { input: scoring::circles::input(*n, seed) })
            }
            // A validated task and the check in `new` leave nothing else.
            _ => Err(HostError {
                message: "the task says neither how to train nor what to call".into(),
                hint: "add [evaluation] and [data], or [evaluator], to task.toml".into(),
            }),
        }
    }

    /// The score of what a finished evaluation produced.
    fn score(&self, product: Option<&Product>) -> Result<f64, Outcome> {
        match (product, &self.task.evaluator) {
            (Some(Product::HeldOut(score)), None) => Ok(score.bits_per_byte),
            (Some(Product::Output(bytes)), Some(EvaluatorConfig::Circles { n })) => {
                scoring::circles::score(bytes, *n)
            }
            _ => {
                Err(Outcome::InvalidOutput { reason: "nothing was produced that this task can score".into() })
            }
        }
    }
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
        let evaluation = Evaluation {
            seed,
            probe_key: seeds::derive(self.probe_secret, "probe", &[seed, split as u64]),
            knobs: knobs.clone(),
            job: self.job(seed, split)?,
            limits: self.task.budget.clone(),
        };
        let report = self.sandbox.run(built, &evaluation).map_err(|e| host(&e))?;
        let (outcome, score) = if report.outcome.is_finished() {
            match self.score(report.product.as_ref()) {
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
