//! Workers that die of a signal. Alone in its executable: it strikes children
//! of this process, and no other test's worker may be hit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use terrarium_sandbox::{Limits, Outcome, Phase, World};
use terrarium_tests::glass::{children, guest, held_out, small_limits, train, train_with};

fn good_training() {
    assert_eq!(held_out(&train(&guest("uniform", World::Trainer))).bits_per_byte, 8.0);
}

#[test]
fn a_worker_that_dies_is_reported_and_one_that_is_killed_is_tried_again() {
    use rustix::process::{Pid, Signal, kill_process};
    let component = guest("steps_slowly", World::Trainer);
    let ended = |signal: Signal| {
        std::thread::scope(|scope| {
            let before: BTreeMap<i32, u64> =
                children("worker").into_iter().map(|id| (id, ticks(id))).collect();
            let run = scope.spawn(|| train_with(&component, 1, Limits { wall_ms: 19_000, ..small_limits() }));
            let start = Instant::now();
            let mut struck = false;
            while !struck && start.elapsed() < Duration::from_secs(10) && !run.is_finished() {
                std::thread::sleep(Duration::from_millis(20));
                for id in children("worker") {
                    // Past start-up: it has burnt a tenth of a second in its guest.
                    if ticks(id) >= before.get(&id).unwrap_or(&0) + 10
                        && let Some(pid) = Pid::from_raw(id)
                    {
                        kill_process(pid, signal).expect("it is our child");
                        if signal == Signal::SEGV {
                            // The first one is taken for a fault of the guest's
                            // that repeats itself; the second is deadly.
                            std::thread::sleep(Duration::from_millis(20));
                            let _ = kill_process(pid, signal);
                        }
                        struck = true;
                        break;
                    }
                }
            }
            assert!(struck, "no worker was seen at work");
            run.join().expect("the evaluation does not panic").outcome
        })
    };
    for signal in [Signal::SEGV, Signal::ABORT] {
        let outcome = ended(signal);
        assert_eq!(outcome, Outcome::WorkerDied { signal: signal.as_raw(), phase: Phase::Train });
        good_training();
    }
    assert_eq!(ended(Signal::KILL), Outcome::Finished);
    good_training();
}

/// Processor time of a process, in hundredths of a second.
fn ticks(id: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |at: usize| fields.get(at).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}
