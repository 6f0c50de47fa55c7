//! The threads that share the tasks of a step.
//!
//! A step of a small model takes microseconds, and so does waking a thread
//! that sleeps. So the caller works too, and between two steps the others look
//! for work for a moment before they go to sleep. Tasks are begun in order,
//! which lets one wait for those before it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{hint, io, thread};

/// How long a thread looks for work before it sleeps. Others go first.
const LOOK: Duration = Duration::from_micros(100);
/// Times that a waiting thread looks before it lets others go first.
const LOOKS: usize = 64;

/// Members of the round that are at work, in the low bits of the state.
const AT_WORK: u64 = OPEN - 1;
/// The round takes members.
const OPEN: u64 = 1 << 16;
/// One round.
const ROUND: u64 = 1 << 17;

type Task = dyn Fn(usize) + Sync;

/// What the members of a round do.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task,
    tasks: usize,
}

struct Shared {
    /// Number of the round, whether it is open, and who is at work.
    state: AtomicU64,
    /// Written between rounds, read by members of a round.
    job: UnsafeCell<Job>,
    /// The first task that nobody has begun.
    next: AtomicUsize,
    /// What a member's task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    started: AtomicUsize,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
    over: AtomicBool,
}

// SAFETY: `job` is written by the one caller of a round while the round is
// closed and nobody is at work, and read only by members, who entered while it
// was open; its task may be called from any thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Does tasks until all are begun.
    fn work(&self, job: Job) {
        loop {
            let task = self.next.fetch_add(1, Relaxed);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the caller's closure, which lives until nobody is at
            // work on its round any more.
            unsafe { (*job.task)(task) };
        }
    }

    /// A member's life.
    fn serve(&self) {
        let mut last = 0;
        let mut since = Instant::now();
        let mut looks = 0;
        while !self.over.load(Relaxed) {
            let state = self.state.load(Acquire);
            let round = state / ROUND;
            if state & OPEN != 0 && round != last {
                if self.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_err() {
                    continue;
                }
                // SAFETY: the round was open, and is not over before this
                // member has left it.
                let job = unsafe { *self.job.get() };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(job))) {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
                self.state.fetch_sub(1, Release);
                (last, since, looks) = (round, Instant::now(), 0);
                continue;
            }
            relax(&mut looks);
            if looks.is_multiple_of(LOOKS) && since.elapsed() > LOOK {
                self.sleep(last);
                since = Instant::now();
            }
        }
    }

    /// Until a round after `last` is open, or all is over.
    fn sleep(&self, last: u64) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the state is looked at: whoever opens a round looks at this
        // after it, so one of the two sees the other.
        self.asleep.fetch_add(1, SeqCst);
        loop {
            let state = self.state.load(SeqCst);
            if self.over.load(SeqCst) || (state & OPEN != 0 && state / ROUND != last) {
                break;
            }
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, SeqCst);
    }

    fn wake(&self) {
        if self.asleep.load(SeqCst) > 0 {
            // Whoever counted itself holds the lock until it waits.
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.alarm.notify_all();
        }
    }
}

/// One more look while waiting. Others go first before the second: threads
/// that were woken meanwhile would else wait for the end of a time slice.
pub(crate) fn relax(looks: &mut usize) {
    if looks.is_multiple_of(LOOKS) {
        thread::yield_now()
    } else {
        hint::spin_loop()
    }
    *looks += 1;
}

/// Threads that work with their caller. They end soon after this is dropped.
pub(crate) struct Team {
    shared: Arc<Shared>,
    threads: usize,
    /// A round goes on: another one asked for meanwhile, by one of its tasks,
    /// say, is done by whoever asks.
    busy: AtomicBool,
}

impl Team {
    /// `threads` with the caller's, at least 2. All have started when this
    /// returns: until then they make system calls that a lock-down kills for.
    pub fn new(threads: usize) -> io::Result<Team> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { task: &|_| (), tasks: 0 }),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            started: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let team = Team { shared, threads, busy: AtomicBool::new(false) };
        for member in 1..threads {
            let shared = team.shared.clone();
            thread::Builder::new().name(format!("kernels-{member}")).spawn(move || {
                shared.started.fetch_add(1, Release);
                shared.serve();
            })?;
        }
        while team.shared.started.load(Acquire) + 1 < threads {
            thread::yield_now();
        }
        Ok(team)
    }

    /// How many work, with the caller.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// `task(0)`, …, `task(tasks − 1)`, each once, begun in this order.
    ///
    /// # Panics
    /// If a task does, when all that were begun are over.
    pub fn each(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.busy.swap(true, Acquire) {
            (0..tasks).for_each(task);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is another one: `Round` sees to it that no
        // one has the job when this function ends.
        let task: &'static Task = unsafe { std::mem::transmute(task) };
        let job = Job { task, tasks };
        // SAFETY: the last round is closed and all have left it.
        unsafe { *shared.job.get() = job };
        shared.next.store(0, Relaxed);
        let round = Round { shared, busy: &self.busy };
        let state = shared.state.load(Relaxed);
        shared.state.store((state / ROUND + 1) * ROUND + OPEN, SeqCst);
        shared.wake();
        shared.work(job);
        drop(round);
        let panicked = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        self.shared.wake();
    }
}

/// An open round; dropped, it is closed and over.
struct Round<'a> {
    shared: &'a Shared,
    busy: &'a AtomicBool,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.shared.state.fetch_and(!OPEN, AcqRel);
        // After a panic of the caller's no further task is begun.
        self.shared.next.store(usize::MAX / 2, Relaxed);
        let mut looks = 0;
        while self.shared.state.load(Acquire) & AT_WORK != 0 {
            relax(&mut looks);
        }
        self.busy.store(false, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn each_task_is_done_once_whoever_sleeps() {
        for threads in [2, 3, 9] {
            let team = Team::new(threads).unwrap();
            for round in 0..2000usize {
                let tasks = round % 37;
                let done: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                team.each(tasks, &|task| {
                    done[task].fetch_add(1, Relaxed);
                });
                assert!(done.iter().all(|n| n.load(Relaxed) == 1), "{threads} threads, round {round}");
                if round.is_multiple_of(400) {
                    // Longer than they look for work.
                    thread::sleep(LOOK * 20);
                }
            }
        }
    }

    #[test]
    fn all_threads_take_part() {
        let team = Team::new(3).unwrap();
        for _ in 0..20 {
            thread::sleep(LOOK * 20);
            // Each task waits for all: one thread alone would never end.
            let here = Barrier::new(3);
            team.each(3, &|_| {
                here.wait();
            });
        }
    }

    #[test]
    fn tasks_are_begun_in_order() {
        let team = Team::new(4).unwrap();
        for _ in 0..500 {
            let done = AtomicUsize::new(0);
            team.each(64, &|task| {
                if task < 32 {
                    done.fetch_add(1, Release);
                    return;
                }
                let mut looks = 0;
                while done.load(Acquire) < 32 {
                    relax(&mut looks);
                }
            });
        }
    }

    #[test]
    fn a_task_may_have_tasks_of_its_own() {
        let team = Team::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        team.each(10, &|i| {
            team.each(10, &|j| {
                sum.fetch_add(10 * i + j, Relaxed);
            })
        });
        assert_eq!(sum.into_inner(), (0..100).sum());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(3).unwrap();
        for bad in 0..30 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.each(30, &|task| assert!(task != bad, "task {task}"));
            }));
            let said = result.unwrap_err();
            assert_eq!(said.downcast_ref::<String>(), Some(&format!("task {bad}")));
            let done = AtomicUsize::new(0);
            team.each(100, &|_| {
                done.fetch_add(1, Relaxed);
            });
            assert_eq!(done.into_inner(), 100);
        }
    }
}
