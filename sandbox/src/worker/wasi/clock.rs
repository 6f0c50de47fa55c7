//! The clock that fuel drives, and waiting that takes no time.

use super::{CALL_FUEL, State, charge};
use crate::Outcome;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable, ResourceType};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::bindings::wasi::io::poll::{Host as _, HostPollable as _};

/// Fuel of one pollable in a list.
const POLLABLE_FUEL: u64 = 100;

/// Nanoseconds since the start of the evaluation.
#[derive(Default)]
pub(super) struct Clock {
    /// Of these, slept over.
    slept: AtomicU64,
    /// The time when it was last looked at.
    now: AtomicU64,
    /// The next timer among those that were just polled and are not due; 0: none.
    next: AtomicU64,
}

/// A point in time that a guest waits for.
struct Timer {
    due: u64,
    clock: Arc<Clock>,
}

#[async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        std::future::poll_fn(|_| {
            if self.clock.now.load(Relaxed) >= self.due {
                return Poll::Ready(());
            }
            let next = self.clock.next.load(Relaxed);
            if next == 0 || self.due < next {
                self.clock.next.store(self.due, Relaxed);
            }
            Poll::Pending
        })
        .await;
    }
}

type Store<'a> = StoreContextMut<'a, State>;

/// The time after a call that costs `fuel`.
fn tick(store: &mut Store<'_>, fuel: u64) -> wasmtime::Result<u64> {
    let left = charge(store, fuel)?;
    let state = store.data_mut();
    let (spent, given) = state.fuel_given;
    let used = spent.saturating_add(given.saturating_sub(left));
    let clock = &state.wasi().clock;
    let now = used.saturating_add(clock.slept.load(Relaxed));
    clock.now.store(now, Relaxed);
    Ok(now)
}

fn timer(store: &mut Store<'_>, due: u64) -> wasmtime::Result<Resource<DynPollable>> {
    let wasi = store.data_mut().wasi();
    let timer = Timer { due, clock: wasi.clock.clone() };
    let timer = wasi.table.push(timer)?;
    subscribe(&mut wasi.table, timer)
}

/// One look at a future, which nobody will wake.
fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Looks once; if nothing is ready, moves the clock to the next timer and
/// looks again. Whoever waits for something else would wait for ever.
fn wait<T>(
    store: &mut Store<'_>,
    fuel: u64,
    look: impl AsyncFn(&mut ResourceTable) -> wasmtime::Result<T>,
) -> wasmtime::Result<T> {
    let now = tick(store, fuel)?;
    let wasi = store.data_mut().wasi();
    wasi.clock.next.store(0, Relaxed);
    if let Some(result) = once(look(&mut wasi.table)) {
        return result;
    }
    let next = wasi.clock.next.load(Relaxed).max(now);
    wasi.clock.slept.fetch_add(next - now, Relaxed);
    wasi.clock.now.store(next, Relaxed);
    match once(look(&mut wasi.table)) {
        Some(result) => result,
        None => store.data_mut().end(Outcome::HostDenied {
            call: "wasi:io/poll".into(),
            reason: "it waits for something that cannot happen".into(),
        }),
    }
}

/// `wasi:io/poll` and `wasi:clocks/monotonic-clock`.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Pollable = Resource<DynPollable>;
    let mut poll = linker.instance("wasi:io/poll@0.2.12")?;
    poll.resource("pollable", ResourceType::host::<DynPollable>(), |mut store, rep| {
        store.data_mut().count_call()?;
        wasmtime_wasi_io::bindings::wasi::io::poll::HostPollable::drop(
            &mut store.data_mut().wasi().table,
            Resource::new_own(rep),
        )
    })?;
    poll.func_wrap("[method]pollable.ready", |mut store: Store<'_>, (pollable,): (Pollable,)| {
        tick(&mut store, CALL_FUEL)?;
        let ready = once(store.data_mut().wasi().table.ready(pollable));
        Ok((ready.transpose()?.unwrap_or(false),))
    })?;
    poll.func_wrap("[method]pollable.block", |mut store: Store<'_>, (pollable,): (Pollable,)| {
        let rep = pollable.rep();
        wait(&mut store, CALL_FUEL, async |table| table.block(Resource::new_borrow(rep)).await)
    })?;
    poll.func_wrap("poll", |mut store: Store<'_>, (list,): (Vec<Pollable>,)| {
        let fuel = CALL_FUEL + POLLABLE_FUEL * list.len() as u64;
        let reps: Vec<u32> = list.iter().map(Resource::rep).collect();
        let ready = wait(&mut store, fuel, async |table| {
            table.poll(reps.iter().map(|rep| Resource::new_borrow(*rep)).collect()).await
        })?;
        Ok((ready,))
    })?;

    let mut clock = linker.instance("wasi:clocks/monotonic-clock@0.2.12")?;
    clock.func_wrap("now", |mut store: Store<'_>, (): ()| Ok((tick(&mut store, CALL_FUEL)?,)))?;
    clock.func_wrap("resolution", |mut store: Store<'_>, (): ()| {
        tick(&mut store, CALL_FUEL)?;
        Ok((1u64,))
    })?;
    clock.func_wrap("subscribe-instant", |mut store: Store<'_>, (when,): (u64,)| {
        tick(&mut store, CALL_FUEL)?;
        Ok((timer(&mut store, when)?,))
    })?;
    clock.func_wrap("subscribe-duration", |mut store: Store<'_>, (duration,): (u64,)| {
        let now = tick(&mut store, CALL_FUEL)?;
        Ok((timer(&mut store, now.saturating_add(duration))?,))
    })?;
    Ok(())
}
