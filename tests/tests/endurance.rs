//! Ten thousand hostile evaluations in a row, with good ones between them:
//! every good one is right, the engine does not grow, and nothing is left.
//!
//! The guests are attacks of the corpus, compiled once. They end in every way
//! in which an evaluation can end; now and then a waiting worker is killed
//! from outside.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use terrarium_sandbox::{Component, World};
use terrarium_tests::corpus::{self, Attack, Trial};
use terrarium_tests::machine::{self, Machine};
use terrarium_tests::{glass, processes};

/// Hostile evaluations in all, and how many between two looks at the memory.
const HOSTILE: usize = 10_000;
const ROUND: usize = 1_000;

/// A good evaluation after this many hostile ones.
const GOOD_EVERY: usize = 4;

/// A waiting worker is killed from outside after this many.
const KILL_EVERY: usize = 250;

/// How far the memory at the end may be from that after the first round, in
/// percent.
const FLAT: f64 = 5.0;

const THREADS: usize = 2;

/// Attacks that need little work. The first is tried more seldom: each waits
/// for its deadline.
const GUESTS: &[&str] = &[
    "neighbours/crowd_of_deadlines",
    "time/loop",
    "time/two_that_call_each_other",
    "time/calls_pay_fuel",
    "time/cheap_calls",
    "time/bulk_work_is_paid_by_size",
    "neighbours/crowd_of_traps",
    "neighbours/aborts",
    "neighbours/prints",
    "memory/grows_by_pages",
    "memory/grows_its_table",
    "memory/calls_beyond_the_table",
    "abi/list_too_long",
    "abi/no_room",
    "abi/talks_after_the_answer",
    "outputs/one_byte_too_many",
    "outputs/exactly_enough",
    "words/escapes_in_an_error",
    "words/terminal_escapes",
    "words/knobs_without_end",
    "state/statics",
    "state/grown_memory",
    "modules/start_that_traps",
    "handles/hoards_tensors",
    "handles/used_after_free",
    "handles/frees_the_hosts_tensors",
    "shapes/all_of_the_device",
    "scores/no_number",
    "scores/downloads_the_answer",
    "scores/speaks_while_it_predicts",
];

fn main() -> ExitCode {
    if std::env::args().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    match endure() {
        Ok(breaches) if breaches.is_empty() => ExitCode::SUCCESS,
        Ok(breaches) => {
            breaches.iter().take(20).for_each(|breach| println!("    {breach}"));
            println!("{} things were not as they must be", breaches.len());
            ExitCode::FAILURE
        }
        Err(e) => {
            println!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn endure() -> Result<Vec<String>, String> {
    // One heap for all threads: what is measured is what the engine holds, not
    // how the C library spreads what was given back over a heap for each.
    // SAFETY: sets a number of the allocator, before any other thread exists.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (temporary, ground) = (folder.path().join("temporary"), folder.path().join("ground"));
    for path in [&temporary, &ground] {
        std::fs::create_dir(path).map_err(|e| e.to_string())?;
    }
    // SAFETY: no other thread exists yet: this is the start of `main`.
    unsafe { std::env::set_var("TMPDIR", &temporary) };
    let trial = Trial::open(&ground, &[])?;
    glass::shards();
    let guests = guests(&trial)?;
    let before = Machine::look();

    let start = Instant::now();
    let mut breaches = Vec::new();
    let mut resident = Vec::new();
    for round in 0..HOSTILE / ROUND {
        breaches.extend(one_round(&trial, &guests, round * ROUND));
        resident.push(machine::resident());
    }
    let took = start.elapsed();
    let strays = trial.close();
    breaches.extend(Machine::look().left_since(&before, u64::MAX / 2));
    breaches.extend(strays.iter().map(|path| format!("left behind: {}", path.display())));
    let (first, last) = (resident[0] as f64, resident[resident.len() - 1] as f64);
    let growth = 100.0 * (last - first) / first;
    if growth.abs() > FLAT {
        breaches.push(format!("the engine's memory went from {first} to {last} bytes: {resident:?}"));
    }
    println!(
        "{HOSTILE} hostile evaluations of {} guests, {} good ones, all right: {}; {:.1} s\n\
         memory of the engine after each {ROUND}, in KiB: {:?} ({growth:+.1} %)",
        guests.len(),
        HOSTILE / GOOD_EVERY,
        breaches.is_empty(),
        took.as_secs_f64(),
        resident.iter().map(|bytes| bytes >> 10).collect::<Vec<_>>(),
    );
    Ok(breaches)
}

/// The guests, with limits that they reach soon.
fn guests(trial: &Trial) -> Result<Vec<(Attack, Component)>, String> {
    let attacks = corpus::load()?;
    GUESTS
        .iter()
        .map(|name| {
            let found = attacks.iter().find(|a| format!("{}/{}", a.family, a.name) == *name);
            let mut attack = found.ok_or_else(|| format!("there is no attack {name}"))?.clone();
            let limits = &mut attack.limits;
            if limits.wall_ms > 1_000 {
                limits.fuel = limits.fuel.min(10_000_000);
            }
            limits.tensors = limits.tensors.min(500);
            let component = trial.prepare(&attack)?;
            Ok((attack, component))
        })
        .collect()
}

/// [`ROUND`] hostile evaluations, and the good ones between them.
fn one_round(trial: &Trial, guests: &[(Attack, Component)], from: usize) -> Vec<String> {
    let next = AtomicUsize::new(from);
    let breaches = Mutex::new(Vec::new());
    let note = |more: Vec<String>| {
        breaches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(more);
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= from + ROUND {
                        break;
                    }
                    let which = if n % 100 == 0 { 0 } else { 1 + n % (guests.len() - 1) };
                    let (attack, component) = &guests[which];
                    let told = trial.once(attack, component);
                    note(
                        told.into_iter().map(|b| format!("{}/{}: {b}", attack.family, attack.name)).collect(),
                    );
                    if n % KILL_EVERY == 0
                        && let Some(&pid) = trial.idle_workers().first()
                    {
                        processes::signal(pid, rustix::process::Signal::KILL);
                    }
                    if n % GOOD_EVERY == 0 {
                        let world = if n % 8 == 0 { World::Trainer } else { World::Function };
                        note(trial.good(world).into_iter().map(|b| format!("a good one: {b}")).collect());
                    }
                }
            });
        }
    });
    breaches.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
