//! Stopping work from another thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stops the evaluation or the instance that it was given to, from any thread.
///
/// Cancelling kills the worker; what was running ends with
/// [`Outcome::Cancelled`](crate::Outcome::Cancelled). A handle stays cancelled:
/// whatever is started with it afterwards ends at once. All clones are one
/// handle.
#[derive(Clone, Default)]
pub struct CancelHandle {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    cancelled: bool,
    next: u64,
    /// What has to be woken, by registration.
    wakers: BTreeMap<u64, Box<dyn Fn() + Send>>,
}

impl CancelHandle {
    /// A handle that has not been cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops what runs under this handle, now and later.
    pub fn cancel(&self) {
        let mut inner = self.lock();
        inner.cancelled = true;
        for wake in inner.wakers.values() {
            wake();
        }
    }

    /// Whether [`CancelHandle::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Calls `wake` when the handle is cancelled, at once if it is already,
    /// until the registration is dropped. `wake` must not use this handle.
    pub(crate) fn on_cancel(&self, wake: impl Fn() + Send + 'static) -> Registration<'_> {
        let mut inner = self.lock();
        if inner.cancelled {
            wake();
        }
        let id = inner.next;
        inner.next += 1;
        inner.wakers.insert(id, Box::new(wake));
        Registration { handle: self, id }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelHandle").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// Something that is woken by a cancellation. Dropped: no longer.
pub(crate) struct Registration<'a> {
    handle: &'a CancelHandle,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.handle.lock().wakers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_waker_is_called_while_it_is_registered_and_at_once_if_it_is_late() {
        let handle = CancelHandle::new();
        let woken = Arc::new(AtomicU32::new(0));
        let count = || {
            let woken = Arc::clone(&woken);
            move || {
                woken.fetch_add(1, Ordering::SeqCst);
            }
        };
        let gone = handle.on_cancel(count());
        drop(gone);
        let _here = handle.on_cancel(count());
        assert!(!handle.is_cancelled());
        handle.clone().cancel();
        assert!(handle.is_cancelled());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        let _late = handle.on_cancel(count());
        assert_eq!(woken.load(Ordering::SeqCst), 2);
    }
}
