//! Asynchronous use, with any executor: a future that is a thread.

use super::{BuildError, Component, RunOptions, Sandbox, SandboxError};
use crate::cancel::CancelHandle;
use crate::{Evaluation, Report, Source, World};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// A result that a thread of the sandbox works on. A [`Future`] of any
/// executor; it makes progress without being polled. Dropping it before its
/// end cancels an evaluation; a build runs on to its end, within the limits of
/// the jail, and fills the cache.
pub struct Pending<T> {
    shared: Arc<Mutex<Shared<T>>>,
    cancel: CancelHandle,
}

struct Shared<T> {
    /// The thread has nothing to give: it ended without a result.
    gone: bool,
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Pending<T> {
    /// Stops the evaluation.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let done = {
            let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.gone
        };
        if !done {
            self.cancel.cancel();
        }
    }
}

/// Tells the future that its thread is done, even if it panicked.
struct Finish<T>(Arc<Mutex<Shared<T>>>);

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        let waker = {
            let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            shared.gone = true;
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T, E: From<SandboxError>> Future for Pending<Result<T, E>> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = shared.value.take() {
            return Poll::Ready(value);
        }
        if shared.gone {
            let reason = "its thread ended, or its result was taken before".to_owned();
            return Poll::Ready(Err(SandboxError::Child { part: "an asynchronous call", reason }.into()));
        }
        shared.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce(&CancelHandle) -> Result<T, SandboxError> + Send + 'static,
) -> Pending<Result<T, SandboxError>> {
    start(work, |e| e)
}

fn start<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce(&CancelHandle) -> Result<T, E> + Send + 'static,
    trouble: impl FnOnce(SandboxError) -> E,
) -> Pending<Result<T, E>> {
    let shared = Arc::new(Mutex::new(Shared { gone: false, value: None, waker: None }));
    let cancel = CancelHandle::new();
    let finish = Finish(Arc::clone(&shared));
    let handle = cancel.clone();
    let started = std::thread::Builder::new().name("terrarium-async".into()).spawn(move || {
        let value = work(&handle);
        finish.0.lock().unwrap_or_else(PoisonError::into_inner).value = Some(value);
    });
    if let Err(e) = started {
        let error = SandboxError::Child { part: "starting a thread", reason: e.to_string() };
        shared.lock().unwrap_or_else(PoisonError::into_inner).value = Some(Err(trouble(error)));
    }
    Pending { shared, cancel }
}

impl Sandbox {
    /// [`Sandbox::run`] as a future.
    pub fn run_async(
        self: &Arc<Self>,
        component: &Component,
        evaluation: Evaluation,
    ) -> Pending<Result<Report, SandboxError>> {
        let (sandbox, component) = (Arc::clone(self), component.clone());
        on_a_thread(move |cancel| sandbox.run_with(&component, &evaluation, RunOptions::new().cancel(cancel)))
    }

    /// [`Sandbox::run_many`] as a future.
    pub fn run_many_async(
        self: &Arc<Self>,
        component: &Component,
        evaluations: Vec<Evaluation>,
    ) -> Pending<Result<Vec<Report>, SandboxError>> {
        let (sandbox, component) = (Arc::clone(self), component.clone());
        on_a_thread(move |cancel| sandbox.run_many_with(&component, &evaluations, Some(cancel)))
    }

    /// [`Sandbox::compile`] as a future.
    pub fn compile_async(
        self: &Arc<Self>,
        source: Source<'_>,
        world: World,
    ) -> Pending<Result<Component, BuildError>> {
        let (sandbox, source) = (Arc::clone(self), source.to_owned());
        start(move |_| sandbox.compile(source.borrow(), world), BuildError::from)
    }
}
