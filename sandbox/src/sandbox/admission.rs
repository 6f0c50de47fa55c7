//! Back-pressure: a bounded number of workers at a time, callers served in the
//! order in which they came.

use crate::cancel::CancelHandle;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The door. Shared by all callers of one sandbox.
pub(super) struct Admission {
    state: Mutex<State>,
    changed: Condvar,
    places: usize,
}

#[derive(Default)]
struct State {
    taken: usize,
    next: u64,
    /// Tickets of those who wait, the first first.
    queue: VecDeque<u64>,
}

/// The right to one worker. Given back when dropped.
pub(super) struct Permit {
    admission: Arc<Admission>,
}

/// Why there is no permit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The wait was too long.
    Timeout,
    /// The caller's handle was cancelled.
    Cancelled,
}

impl Admission {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), places: places.max(1) })
    }

    /// Waits for a place, at most so long.
    pub(super) fn enter(
        self: &Arc<Self>,
        timeout: Duration,
        cancel: Option<&CancelHandle>,
    ) -> Result<Permit, Refused> {
        let mut state = self.lock();
        if state.queue.is_empty() && state.taken < self.places && cancel.is_none() {
            state.taken += 1;
            return Ok(Permit { admission: Arc::clone(self) });
        }
        drop(state);
        let _woken = cancel.map(|cancel| {
            let admission = Arc::clone(self);
            cancel.on_cancel(move || {
                let _state = admission.lock();
                admission.changed.notify_all();
            })
        });
        let end = Instant::now() + timeout;
        let is_cancelled = || cancel.is_some_and(CancelHandle::is_cancelled);
        let mut cancelled = is_cancelled();
        state = self.lock();
        let ticket = state.next;
        state.next += 1;
        state.queue.push_back(ticket);
        let refused = loop {
            if cancelled {
                break Refused::Cancelled;
            }
            if state.taken < self.places && state.queue.front() == Some(&ticket) {
                state.queue.pop_front();
                state.taken += 1;
                // There may be a place for the next one too.
                self.wake(&state);
                return Ok(Permit { admission: Arc::clone(self) });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Refused::Timeout;
            }
            // A slice of the wait, so that a cancellation between the look and
            // the wait costs little: the handle cannot be asked under the lock.
            let slice = if cancel.is_some() { left.min(Duration::from_millis(50)) } else { left };
            (state, _) = self.changed.wait_timeout(state, slice).unwrap_or_else(PoisonError::into_inner);
            if cancel.is_some() {
                drop(state);
                cancelled = is_cancelled();
                state = self.lock();
            }
        };
        state.queue.retain(|t| *t != ticket);
        self.wake(&state);
        Err(refused)
    }

    /// A call of the kernel, and there mostly is nobody to wake.
    fn wake(&self, state: &State) {
        if !state.queue.is_empty() {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.taken -= 1;
        self.admission.wake(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn places_are_bounded_and_a_wait_ends() {
        let door = Admission::new(2);
        let first = door.enter(LONG, None).unwrap();
        let _second = door.enter(LONG, None).unwrap();
        assert_eq!(door.enter(Duration::from_millis(20), None).err(), Some(Refused::Timeout));
        drop(first);
        let _third = door.enter(LONG, None).unwrap();
        assert!(door.lock().queue.is_empty());
    }

    #[test]
    fn those_who_wait_are_served_in_order() {
        let door = Admission::new(1);
        let held = door.enter(LONG, None).unwrap();
        let served = Arc::new(Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (inner, served) = (Arc::clone(&door), Arc::clone(&served));
                scope.spawn(move || {
                    let permit = inner.enter(LONG, None).unwrap();
                    served.lock().unwrap().push(n);
                    drop(permit);
                });
                while door.lock().queue.len() < n + 1 {
                    std::thread::yield_now();
                }
            }
            drop(held);
        });
        assert_eq!(*served.lock().unwrap(), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_cancelled_wait_ends_and_leaves_its_place_in_the_queue() {
        let door = Admission::new(1);
        let held = door.enter(LONG, None).unwrap();
        let cancel = CancelHandle::new();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| door.enter(LONG, Some(&cancel)).err());
            while door.lock().queue.is_empty() {
                std::thread::yield_now();
            }
            cancel.cancel();
            assert_eq!(waits.join().unwrap(), Some(Refused::Cancelled));
        });
        drop(held);
        assert!(door.enter(LONG, None).is_ok());
        assert_eq!(door.enter(LONG, Some(&cancel)).err(), Some(Refused::Cancelled));
    }
}
