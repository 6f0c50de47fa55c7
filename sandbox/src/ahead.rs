//! Child processes that are started before they are wanted.
//!
//! A child needs milliseconds before it can be told anything: its executable is
//! loaded, namespaces are made, filters put in place. None of that depends on
//! the candidate. So whoever needs one child after another has the next one
//! started while the present one works.
//!
//! A first request starts nothing ahead: most commands need one child of a kind.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::child;

/// Kinds that are remembered. Each may have one process waiting.
const KINDS: usize = 8;

/// At most one thing of each kind, made ahead. What waits ends when the last
/// clone of this is dropped.
pub(crate) struct Ahead<K, T> {
    kinds: Arc<Mutex<VecDeque<Kind<K, T>>>>,
}

struct Kind<K, T> {
    key: K,
    waiting: Option<Receiver<T>>,
}

impl<K, T> Default for Ahead<K, T> {
    fn default() -> Self {
        Self { kinds: Arc::default() }
    }
}

impl<K, T> Clone for Ahead<K, T> {
    fn clone(&self) -> Self {
        Self { kinds: Arc::clone(&self.kinds) }
    }
}

impl<K: PartialEq + Clone, T: Send + 'static> Ahead<K, T> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kind<K, T>>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was made ahead of this kind, if anything was; where it is still
    /// being made, that is waited for.
    pub(crate) fn take(&self, key: &K) -> Option<T> {
        let waiting = self.lock().iter_mut().find(|kind| kind.key == *key)?.waiting.take();
        waiting?.recv().ok()
    }

    /// Has the next one made, if this kind has been asked for before.
    pub(crate) fn prepare(&self, key: &K, make: impl FnOnce() -> T + Send + 'static) {
        let mut kinds = self.lock();
        match kinds.iter().position(|kind| kind.key == *key) {
            Some(at) => {
                // The latest lie at the end.
                let Some(mut kind) = kinds.remove(at) else { return };
                if kind.waiting.is_none() {
                    kind.waiting = child::on_spawner(make).ok();
                }
                kinds.push_back(kind);
            }
            None => {
                let oldest = (kinds.len() == KINDS).then(|| kinds.pop_front());
                kinds.push_back(Kind { key: key.clone(), waiting: None });
                drop(kinds);
                drop(oldest); // Kills and reaps what waited.
            }
        }
    }

    /// Ends what waits, and what is still being made once it is there.
    pub(crate) fn drain(&self) {
        let all: Vec<_> = self.lock().iter_mut().filter_map(|kind| kind.waiting.take()).collect();
        all.into_iter().for_each(|waiting| drop(waiting.recv()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_second_request_has_the_third_made_ahead() {
        let made = Arc::new(AtomicUsize::new(0));
        let ahead = Ahead::<&str, usize>::default();
        let prepare = |key| {
            let made = Arc::clone(&made);
            ahead.prepare(&key, move || made.fetch_add(1, Ordering::SeqCst));
        };
        assert_eq!(ahead.take(&"a"), None);
        prepare("a");
        assert_eq!(ahead.take(&"a"), None);
        prepare("a");
        prepare("a");
        assert_eq!(ahead.take(&"b"), None);
        assert_eq!(ahead.take(&"a"), Some(0));
        assert_eq!(ahead.take(&"a"), None);
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_waits_goes_with_its_owner_and_with_the_oldest_kind() {
        struct Held(#[expect(dead_code, reason = "it is counted")] Arc<()>);
        let held = Arc::new(());
        let ahead = Ahead::<usize, Held>::default();
        let prepare = |key| {
            let held = Arc::clone(&held);
            ahead.prepare(&key, move || Held(held));
        };
        // Answers come in order: once the last is there, all have been made.
        let settle = || child::on_spawner(|| ()).unwrap().recv().unwrap();
        for _ in 0..2 {
            prepare(0);
        }
        settle();
        assert_eq!(Arc::strong_count(&held), 2);
        for key in 1..=KINDS {
            prepare(key);
        }
        assert_eq!(Arc::strong_count(&held), 1);
        prepare(1);
        settle();
        ahead.drain();
        assert_eq!(Arc::strong_count(&held), 1);
        prepare(1);
        settle();
        drop(ahead);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
