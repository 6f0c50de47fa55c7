//! The hostile corpus: every attack of `tests/escape`, two at a time, and the
//! machine after it as before.
//!
//! `cargo test --release --workspace --test escape -- WORD…` tries only those
//! whose family or name contains one of the words; `-v` says how each ended.
//! The table goes to standard
//! output; the last line is `N attacks, N held, …`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use terrarium_tests::corpus::{self, Attack, Held, Trial};
use terrarium_tests::glass;
use terrarium_tests::machine::Machine;

/// Attacks at a time.
const AT_A_TIME: usize = 2;

/// The least attacks that are a corpus, where none was chosen.
const LEAST: usize = 150;

/// By how much this process may grow: components that are in use, and what the
/// allocator keeps.
const GROWTH: u64 = 96 << 20;

const SECRET: &str = "swordfish-in-the-environment";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let attacks = match corpus::load() {
        Ok(attacks) => attacks,
        Err(e) => {
            println!("error: {e}");
            return ExitCode::FAILURE;
        }
    };
    let chosen: Vec<Attack> = attacks
        .into_iter()
        .filter(|a| words.is_empty() || words.iter().any(|w| format!("{}/{}", a.family, a.name).contains(*w)))
        .collect();
    let told = arguments.iter().any(|a| a == "-v");
    match siege(&chosen, words.is_empty(), told) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            println!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Tries all, prints the table, and says whether everything held.
fn siege(attacks: &[Attack], whole: bool, told: bool) -> Result<bool, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let temporary = folder.path().join("temporary");
    let ground = folder.path().join("ground");
    for path in [&temporary, &ground] {
        std::fs::create_dir(path).map_err(|e| e.to_string())?;
    }
    // SAFETY: no other thread exists yet: this is the start of `main`. The
    // secret is the engine's own, as an API key would be; the folder for
    // temporary files is one that nothing else uses.
    unsafe {
        std::env::set_var("TERRARIUM_ESCAPE_KEY", SECRET);
        std::env::set_var("TMPDIR", &temporary);
    }
    let trial = Trial::open(&ground, &[SECRET])?;
    // Made once, and kept until this process ends.
    glass::shards();
    let before = Machine::look();
    let start = Instant::now();
    let held = try_all(&trial, attacks);
    let total = start.elapsed();
    let strays = trial.close();
    let mut left = Machine::look().left_since(&before, GROWTH);
    left.extend(strays.iter().map(|path| format!("a file: {}", path.display())));
    if told {
        for (attack, held) in attacks.iter().zip(&held) {
            let endings: Vec<&str> = held.endings.iter().take(4).map(String::as_str).collect();
            let name = format!("{}/{}", attack.family, attack.name);
            println!("{name:<60} {:>6.2} s  {}", held.took.as_secs_f64(), endings.join(" / "));
        }
        println!();
    }
    print_table(attacks, &held);
    for (attack, held) in attacks.iter().zip(&held).filter(|(_, held)| !held.breaches.is_empty()) {
        println!("\n{}/{}: {}", attack.family, attack.name, attack.what);
        held.breaches.iter().take(5).for_each(|breach| println!("    {breach}"));
    }
    left.iter().for_each(|what| println!("\nleft behind: {what}"));
    let good = held.iter().filter(|held| held.breaches.is_empty()).count();
    let slowest = attacks.iter().zip(&held).max_by_key(|(_, held)| held.took);
    let (name, longest) = slowest
        .map_or((String::new(), Duration::ZERO), |(a, h)| (format!("{}/{}", a.family, a.name), h.took));
    println!(
        "\n{} attacks, {good} held, slowest {:.1} s ({name}), total {:.1} s",
        attacks.len(),
        longest.as_secs_f64(),
        total.as_secs_f64()
    );
    if whole && attacks.len() < LEAST {
        println!("a corpus has at least {LEAST} attacks");
    }
    Ok(good == attacks.len() && left.is_empty() && !(whole && attacks.len() < LEAST))
}

fn try_all(trial: &Trial, attacks: &[Attack]) -> Vec<Held> {
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<usize, Held>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(attack) = attacks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trial.run(attack)));
                    let held = tried.unwrap_or_else(|_| Held {
                        took: Duration::ZERO,
                        breaches: vec!["the engine panicked".into()],
                        endings: Default::default(),
                    });
                    let index = attacks.iter().position(|a| std::ptr::eq(a, attack)).unwrap_or_default();
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(index, held);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect()
}

fn print_table(attacks: &[Attack], held: &[Held]) {
    let mut families: BTreeMap<&str, (usize, usize, Duration, Duration, &str)> = BTreeMap::new();
    for (attack, held) in attacks.iter().zip(held) {
        let line = families.entry(&attack.family).or_default();
        line.0 += 1;
        line.1 += usize::from(held.breaches.is_empty());
        line.2 += held.took;
        if held.took >= line.3 {
            (line.3, line.4) = (held.took, &attack.name);
        }
    }
    println!("{:<18} {:>7} {:>5} {:>8}  slowest", "family", "attacks", "held", "seconds");
    for (family, (count, good, all, longest, name)) in families {
        println!(
            "{family:<18} {count:>7} {good:>5} {:>8.1}  {:.1} s {name}",
            all.as_secs_f64(),
            longest.as_secs_f64()
        );
    }
}
