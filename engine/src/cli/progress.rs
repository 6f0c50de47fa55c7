//! What a person sees while a run goes on: a bar on a terminal, quiet lines
//! elsewhere. All of it on standard error.

use crate::ledger::{Ruling, StopReason};
use crate::observer::{RunEvent, RunObserver};
use crate::task::{Direction, Task};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The display of one run.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    metric: String,
    direction: Direction,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    generations: u32,
    generation: u32,
    phase: String,
    best: Option<f64>,
    evaluations: u64,
    failed: u64,
    /// Of the generation that goes on.
    tried: u32,
    kept: u32,
    broken: u32,
    /// Answers of agents that could not be used: how many, and the last reason.
    unused: BTreeMap<String, (u32, String)>,
}

impl Progress {
    /// For this task; silent where every event goes to standard output as JSON.
    pub fn new(task: &Task, silent: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !silent;
        let bar = if terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {msg}  {wide_bar} {pos}/{len}  {elapsed_precise}")
        {
            bar.set_style(style);
        }
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self {
            bar,
            terminal,
            metric: task.header.metric.name.clone(),
            direction: task.header.metric.direction,
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Removes the bar.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, text: &str) {
        if self.terminal {
            self.bar.println(text);
        } else {
            eprintln!("[{:>4.0} s] {text}", self.started.elapsed().as_secs_f64());
        }
    }

    /// One line about the generation that ended, if one did.
    fn sum_up(&self, state: &mut State) {
        for (proposer, (count, reason)) in std::mem::take(&mut state.unused) {
            self.line(&format!("  {proposer}: {count} without a usable answer; the last: {reason}"));
        }
        if state.tried > 0 {
            let best = state.best.map_or(String::new(), |b| format!("; {} about {b:.4}", self.metric));
            self.line(&format!(
                "generation {}/{}: {} tried, {} failed, {} kept{best}",
                state.generation, state.generations, state.tried, state.broken, state.kept
            ));
        }
        (state.tried, state.broken, state.kept) = (0, 0, 0);
    }

    fn message(&self, state: &State) {
        let best = state.best.map_or(String::new(), |b| format!(", best {b:.4}"));
        self.bar.set_message(format!("{}{best}", state.phase));
    }
}

impl RunObserver for Progress {
    fn observe(&self, event: &RunEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            RunEvent::Started { generations, generation_size, recorded_evaluations, .. } => {
                state.generations = *generations;
                state.phase = "baseline".into();
                let again = match recorded_evaluations {
                    0 => String::new(),
                    n => format!("; {n} evaluations were recorded before"),
                };
                self.line(&format!(
                    "baseline, then {generations} generations of {generation_size} proposals{again}"
                ));
            }
            RunEvent::NoiseFloor { baseline } => {
                state.best = baseline.mean;
                self.line(&format!(
                    "baseline {} = {:.4}, noise {:.4} (sd over {} seeds)",
                    self.metric,
                    baseline.mean.unwrap_or(f64::NAN),
                    baseline.sd,
                    baseline.seeds.len()
                ));
            }
            RunEvent::Generation { generation, .. } => {
                self.sum_up(&mut state);
                state.generation = *generation;
                state.phase = format!("generation {generation}/{}", state.generations);
            }
            RunEvent::Unused { proposer, reason } => {
                let unused = state.unused.entry(proposer.clone()).or_default();
                *unused = (unused.0 + 1, reason.clone());
            }
            RunEvent::Wave { evaluations, .. } => {
                self.bar.inc_length(u64::from(*evaluations));
            }
            RunEvent::EvaluationFinished { score, .. } => {
                state.evaluations += 1;
                state.failed += u64::from(score.is_none());
                self.bar.inc(1);
            }
            RunEvent::Decided { decision } => {
                state.tried += 1;
                state.broken += u32::from(decision.ruling == Ruling::Failed);
                if let (Ruling::Kept, Some(gain)) = (decision.ruling, &decision.gain) {
                    self.line(&format!(
                        "  kept {}: {:.4} {} than the incumbent ({} pairs, 95 % interval {:+.4} to {:+.4})",
                        decision.candidate.short(),
                        gain.mean,
                        match self.direction {
                            Direction::Minimize => "lower",
                            Direction::Maximize => "higher",
                        },
                        gain.pairs,
                        gain.low,
                        gain.high
                    ));
                    state.best = state.best.map(|best| match self.direction {
                        Direction::Minimize => best - gain.mean,
                        Direction::Maximize => best + gain.mean,
                    });
                    state.kept += 1;
                }
            }
            RunEvent::Stopped { reason } => {
                self.sum_up(&mut state);
                let why = match reason {
                    StopReason::Evals => "all evaluations are used up",
                    StopReason::Fuel => "all fuel is used up",
                    StopReason::Wall => "its time is used up",
                    StopReason::NoProposals => "nobody has anything new to propose",
                };
                self.line(&format!("stopped before the last generation: {why}"));
            }
            RunEvent::Final { .. } => {
                self.sum_up(&mut state);
                self.line(&format!("{} evaluations, {} of them failed", state.evaluations, state.failed));
            }
            RunEvent::Proposed { .. } | RunEvent::EvaluationStarted { .. } | RunEvent::Crowned { .. } => {}
        }
        self.message(&state);
    }
}
