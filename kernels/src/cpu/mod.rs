//! The CPU backend.
//!
//! Every step is cut into tasks by its shape alone, never by the number of
//! threads, and each task writes a range of its own in an order of its own.
//! So results do not depend on how many threads there are or who runs what.

mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod attention_avx512;
mod attention_backward;
#[cfg(target_arch = "x86_64")]
mod blocked;
mod cross_entropy;
mod dispatch;
#[cfg(target_arch = "x86_64")]
mod ends_avx512;
mod epilogue;
mod experts;
mod faults;
#[cfg(target_arch = "x86_64")]
mod gemm_amx;
#[cfg(target_arch = "x86_64")]
mod gemm_avx2;
#[cfg(target_arch = "x86_64")]
mod gemm_avx512;
mod halves;
mod indexing;
mod layer_norm;
mod math;
mod matmul;
#[cfg(target_arch = "x86_64")]
mod micro;
mod moves;
mod norm;
#[cfg(target_arch = "x86_64")]
mod packing;
#[cfg(target_arch = "x86_64")]
mod packing_amx;
mod past;
mod philox;
mod product;
mod random;
mod reduce;
mod rope;
mod rope_norm;
mod rounding;
mod row_map;
mod scratch;
mod simd;
#[cfg(target_arch = "x86_64")]
mod softmax_avx512;
mod tasks;
mod team;
mod tiles;

use std::time::{Duration, Instant};

pub(crate) use self::rope::angles as rope_angles;
pub(crate) use self::simd::{Level, level, second_cache};

use std::ops::Range;

use self::faults::{Faults, StepFaults};
use self::tasks::{Output, Split};
use self::team::Team;
use crate::Error;
use crate::error::fail;
use crate::graph::Graph;
use crate::table::Table;

/// Fuel below which a step runs on one thread: handing it to another would
/// take as long as doing it.
const PARALLEL_FROM: u64 = 400_000;

/// Threads and cached tables of a CPU device.
pub(crate) struct Cpu {
    /// None: one thread, the caller's.
    team: Option<Team>,
    kept: Kept,
}

/// What is kept from step to step, because making it again would cost time.
#[derive(Default)]
pub(crate) struct Kept {
    rope: rope::Tables,
    wide: product::Wide,
}

impl Cpu {
    /// `threads` 0 is `RAYON_NUM_THREADS`, or as many as the process may use.
    pub fn new(threads: usize) -> Result<Cpu, Error> {
        simd::asked()?;
        simd::level();
        let threads = match threads {
            0 => default_threads(),
            some => some,
        };
        let mut cpu = Cpu { team: None, kept: Kept::default() };
        if threads > 1 {
            match Team::new(threads) {
                Ok(team) => cpu.team = Some(team),
                Err(error) => {
                    return fail!(
                        InvalidArgument,
                        "cannot start {threads} kernel threads: {error}; ask for fewer"
                    );
                }
            }
        }
        Ok(cpu)
    }

    /// Runs a part of the steps; where `times` is given, each step's is appended.
    pub fn run(
        &mut self,
        table: &Table,
        graph: &Graph,
        part: Range<usize>,
        times: Option<&mut Vec<Duration>>,
    ) -> Result<(), Error> {
        let faults = Faults::default();
        let Cpu { team, kept } = self;
        steps(table, graph, part, kept, team.as_ref(), &faults, times);
        faults.report(graph)
    }
}

fn default_threads() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    match asked {
        Some(0) | None => std::thread::available_parallelism().map_or(1, |n| n.get()),
        Some(threads) => threads,
    }
}

fn steps(
    table: &Table,
    graph: &Graph,
    part: Range<usize>,
    kept: &mut Kept,
    team: Option<&Team>,
    faults: &Faults,
    mut times: Option<&mut Vec<Duration>>,
) {
    for (index, (step, &fuel)) in
        graph.steps.iter().zip(&graph.fuels).enumerate().take(part.end).skip(part.start)
    {
        let split = Split { team: team.filter(|_| fuel >= PARALLEL_FROM) };
        let start = times.is_some().then(Instant::now);
        // An op list has at most MAX_OPS entries.
        dispatch::run_step(table, step, split, kept, &faults.of(index as u32));
        if let (Some(times), Some(start)) = (times.as_deref_mut(), start) {
            times.push(start.elapsed());
        }
    }
}
