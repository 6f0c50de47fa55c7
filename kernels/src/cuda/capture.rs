//! Recorded graphs as graphs of the driver: captured once, then one call for
//! all launches.
//!
//! The first run of a graph is by launches: it loads kernels and takes the
//! memory that they need. The second is captured (what a step depends on lies
//! in device memory, so the same launches are right every time), and from then
//! on it is replayed. A graph in which something waits for the card (products
//! by groups, interpreted row kernels) cannot be captured, and neither can a
//! part of a graph: they are run by launches. The order of launches is the same
//! either way, and so are the bits.

use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Driver, Executable};
use super::{Cuda, launch};
use crate::Error;
use crate::graph::Graph;
use crate::table::Table;

/// Captures of one graph before it is given up: each was made worthless by
/// memory that moved.
const MOST_CAPTURES: u32 = 8;

/// The captured twin of a graph.
#[derive(Debug, Default)]
pub(crate) struct Captured(Mutex<State>);

#[derive(Default)]
enum State {
    /// Never run.
    #[default]
    New,
    /// Run by launches, and captured this many times.
    Warm(u32),
    /// With the memory of this generation.
    Ready { executable: Executable, generation: u64, captures: u32 },
    /// Cannot be captured.
    Never,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::New => "New",
            State::Warm(_) => "Warm",
            State::Ready { .. } => "Ready",
            State::Never => "Never",
        })
    }
}

/// All launches of a graph.
fn launches(cuda: &mut Cuda, table: &Table, graph: &Graph) -> Result<(), Error> {
    for (index, step) in graph.steps.iter().enumerate() {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        launch::step(cuda, table, step, index).map_err(|error| error.at(index, step.name()))?;
    }
    Ok(())
}

/// Runs a whole graph, by a replay where there is one.
pub(super) fn run(cuda: &mut Cuda, table: &Table, graph: &Graph) -> Result<(), Error> {
    let mut state = graph.captured.0.lock().unwrap_or_else(PoisonError::into_inner);
    let captures = match &*state {
        State::Ready { executable, generation, .. } if *generation == cuda.generation => {
            return executable.launch();
        }
        State::Ready { captures, .. } | State::Warm(captures) => *captures,
        State::New => {
            launches(cuda, table, graph)?;
            *state = State::Warm(0);
            return Ok(());
        }
        State::Never => return launches(cuda, table, graph),
    };
    if captures >= MOST_CAPTURES {
        *state = State::Never;
        return launches(cuda, table, graph);
    }
    let driver: Arc<Driver> = cuda.driver.clone();
    match Executable::capture(&driver, || launches(cuda, table, graph))? {
        Some(executable) => {
            executable.launch()?;
            *state = State::Ready { executable, generation: cuda.generation, captures: captures + 1 };
            Ok(())
        }
        None => {
            // Nothing was run.
            *state = State::Never;
            launches(cuda, table, graph)
        }
    }
}
