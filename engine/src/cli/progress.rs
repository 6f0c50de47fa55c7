//! What a person sees while a run goes on: a bar on a terminal, quiet lines
//! elsewhere. All of it on standard error.

use crate::observer::{RunEvent, RunObserver};
use crate::task::{Direction, Task};
use indicatif::{ProgressBar, ProgressStyle};
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
                state.generation = *generation;
                state.phase = format!("generation {generation}/{}", state.generations);
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
                if let Some(gain) = decision.gain.as_ref().filter(|g| g.mean > 0.0) {
                    let word = match self.direction {
                        Direction::Minimize => "lower",
                        Direction::Maximize => "higher",
                    };
                    self.line(&format!(
                        "  {}: {:?}, {:.4} {word} ({} pairs, 95 % {:+.4} to {:+.4})",
                        decision.candidate.short(),
                        decision.ruling,
                        gain.mean,
                        gain.pairs,
                        gain.low,
                        gain.high
                    ));
                    if decision.ruling == crate::ledger::Ruling::Kept {
                        state.best = state.best.map(|best| match self.direction {
                            Direction::Minimize => best - gain.mean,
                            Direction::Maximize => best + gain.mean,
                        });
                    }
                }
            }
            RunEvent::Crowned { generation, candidate } => {
                self.line(&format!("  kept {} in generation {generation}", candidate.short()));
            }
            RunEvent::Stopped { reason } => self.line(&format!("stopped early: {reason:?}")),
            RunEvent::Final { .. } => {
                self.line(&format!("{} evaluations, {} of them failed", state.evaluations, state.failed));
            }
            RunEvent::Proposed { .. } | RunEvent::EvaluationStarted { .. } => {}
        }
        self.message(&state);
    }
}
