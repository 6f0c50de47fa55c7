//! Whose turn it is: one tenant has the device at a time, and all of them get
//! shares of it by device fuel.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng 1996) on two levels. Every
//! user has a clock that runs on by the fuel of its work over its weight, and
//! every tenant of a user one that runs on by fuel; the earliest user is
//! served, and of that user the earliest tenant. Who was away does not come
//! back with credit: clocks are set forward to that of the last one served.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A connection, with the user at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tenant {
    pub uid: u32,
    pub number: u64,
}

/// Fuel is counted in these, so that weights divide it finely.
const FINE: u128 = 1 << 16;

#[derive(Default)]
struct State {
    holder: Option<(Tenant, Instant)>,
    waiting: Vec<Tenant>,
    users: BTreeMap<u32, u128>,
    tenants: BTreeMap<Tenant, u128>,
    /// Clock of the user that was served last.
    now: u128,
}

impl State {
    fn next(&self) -> Option<Tenant> {
        let clock = |t: &Tenant| (self.users.get(&t.uid), self.tenants.get(t), t.number);
        self.waiting.iter().min_by_key(|tenant| clock(tenant)).copied()
    }
}

/// The queue.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    freed: Condvar,
}

/// The device, for one tenant. Given back when dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    tenant: Tenant,
    fuel: u64,
    weight: u32,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn to do work of so much fuel.
    pub fn enter(&self, tenant: Tenant, weight: u32, fuel: u64) -> Turn<'_> {
        let mut state = self.lock();
        let now = state.now;
        if !state.waiting.iter().any(|waiting| waiting.uid == tenant.uid) {
            let clock = state.users.entry(tenant.uid).or_default();
            *clock = (*clock).max(now);
        }
        let served = state.tenants.iter().filter(|(t, _)| t.uid == tenant.uid && state.waiting.contains(t));
        let earliest = served.map(|(_, clock)| *clock).min().unwrap_or_default();
        let clock = state.tenants.entry(tenant).or_default();
        *clock = (*clock).max(earliest);
        state.waiting.push(tenant);
        while state.holder.is_some() || state.next() != Some(tenant) {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.retain(|waiting| *waiting != tenant);
        state.holder = Some((tenant, Instant::now()));
        state.now = state.users.get(&tenant.uid).copied().unwrap_or_default();
        Turn { turns: self, tenant, fuel, weight }
    }

    /// A tenant is gone.
    pub fn forget(&self, tenant: Tenant) {
        self.lock().tenants.remove(&tenant);
    }

    /// Who has held the device for longer than this.
    pub fn stuck(&self, longer: Duration) -> Option<Tenant> {
        self.lock().holder.filter(|(_, since)| since.elapsed() > longer).map(|(tenant, _)| tenant)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.holder = None;
        let fine = u128::from(self.fuel.max(1)) * FINE;
        *state.users.entry(self.tenant.uid).or_default() += fine / u128::from(self.weight.max(1));
        *state.tenants.entry(self.tenant).or_default() += fine;
        drop(state);
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Fuel that each of the tenants got while all of them asked all the time.
    fn shares(tenants: &[(Tenant, u32, u64)]) -> Vec<u64> {
        let (turns, end) = (Turns::default(), AtomicBool::new(false));
        let got: Vec<AtomicU64> = tenants.iter().map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for ((tenant, weight, fuel), got) in tenants.iter().zip(&got) {
                let (turns, end) = (&turns, &end);
                scope.spawn(move || {
                    while !end.load(Ordering::Relaxed) {
                        let _turn = turns.enter(*tenant, *weight, *fuel);
                        got.fetch_add(*fuel, Ordering::Relaxed);
                        // All others ask again meanwhile.
                        std::thread::sleep(Duration::from_micros(300));
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(400));
            end.store(true, Ordering::Relaxed);
        });
        got.into_iter().map(AtomicU64::into_inner).collect()
    }

    fn tenant(uid: u32, number: u64) -> Tenant {
        Tenant { uid, number }
    }

    #[test]
    fn large_pieces_of_work_and_many_connections_buy_no_larger_share() {
        let got = shares(&[
            (tenant(1, 1), 1, 1000),
            (tenant(2, 2), 1, 10),
            (tenant(2, 3), 1, 10),
            (tenant(2, 4), 1, 10),
        ]);
        // Within one piece of the largest, of work that took many.
        let other: u64 = got[1..].iter().sum();
        assert!(got[0] <= other + 2000 && got[0] >= 1000, "{got:?}");
    }

    #[test]
    fn a_weight_of_three_gets_three_times_as_much() {
        // Several connections each, so that both users always have one waiting:
        // a turn that nobody else waits for is given away.
        let connections: Vec<_> = (0..6)
            .map(|number| {
                let (uid, weight) = if number < 3 { (1, 3) } else { (2, 1) };
                (tenant(uid, number), weight, 100)
            })
            .collect();
        let got = shares(&connections);
        let (heavy, light) = (got[..3].iter().sum::<u64>(), got[3..].iter().sum::<u64>());
        let ratio = heavy as f64 / light as f64;
        assert!((2.5..3.5).contains(&ratio), "{got:?}");
    }

    #[test]
    fn who_holds_the_device_too_long_is_known() {
        let turns = Turns::default();
        assert_eq!(turns.stuck(Duration::ZERO), None);
        let turn = turns.enter(tenant(7, 1), 1, 1);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(turns.stuck(Duration::from_millis(1)), Some(tenant(7, 1)));
        drop(turn);
        assert_eq!(turns.stuck(Duration::ZERO), None);
    }
}
