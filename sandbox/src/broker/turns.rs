//! Whose turn it is: one tenant has the device at a time, and all of them get
//! shares of it by device fuel.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng 1996) on two levels. Every
//! user has a clock that runs on by the fuel of its work over its weight, and
//! every tenant of a user one that runs on by fuel; the earliest user is
//! served, and of that user the earliest tenant. Who was away comes back with
//! the credit of one slice at most: clocks are set forward to that much before
//! the last one served. With none, a tenant whose graphs end soon after a slice
//! would lose the rest of its next one whenever its next request is on its way.

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

struct State {
    /// Most that a clock lies back when its tenant returns.
    credit: u128,
    holder: Option<(Tenant, Instant)>,
    waiting: Vec<Tenant>,
    users: BTreeMap<u32, u128>,
    tenants: BTreeMap<Tenant, u128>,
    /// Clock of the user that was served last.
    now: u128,
}

impl State {
    /// A tenant waits for its turn.
    fn arrive(&mut self, tenant: Tenant, weight: u32) {
        let (now, credit) = (self.now, self.credit);
        if !self.waiting.iter().any(|waiting| waiting.uid == tenant.uid) {
            let clock = self.users.entry(tenant.uid).or_default();
            *clock = (*clock).max(now.saturating_sub(credit / u128::from(weight.max(1))));
        }
        let others = self.tenants.iter().filter(|(t, _)| t.uid == tenant.uid && self.waiting.contains(t));
        let earliest = others.map(|(_, clock)| *clock).min().unwrap_or_default();
        let clock = self.tenants.entry(tenant).or_default();
        *clock = (*clock).max(earliest.saturating_sub(credit));
        self.waiting.push(tenant);
    }

    /// A tenant that waited has its turn.
    fn serve(&mut self, tenant: Tenant) {
        self.waiting.retain(|waiting| *waiting != tenant);
        self.holder = Some((tenant, Instant::now()));
        self.now = self.users.get(&tenant.uid).copied().unwrap_or_default();
    }

    /// The turn ends.
    fn charge(&mut self, tenant: Tenant, weight: u32, fuel: u64) {
        self.holder = None;
        let fine = u128::from(fuel.max(1)) * FINE;
        *self.users.entry(tenant.uid).or_default() += fine / u128::from(weight.max(1));
        *self.tenants.entry(tenant).or_default() += fine;
    }

    fn next(&self) -> Option<Tenant> {
        let clock = |t: &Tenant| (self.users.get(&t.uid), self.tenants.get(t), t.number);
        self.waiting.iter().min_by_key(|tenant| clock(tenant)).copied()
    }
}

/// The queue.
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
    /// A queue of turns for slices of so much fuel.
    pub fn new(slice_fuel: u64) -> Turns {
        let state = State {
            credit: u128::from(slice_fuel) * FINE,
            holder: None,
            waiting: Vec::new(),
            users: BTreeMap::new(),
            tenants: BTreeMap::new(),
            now: 0,
        };
        Turns { state: Mutex::new(state), freed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn to do work of so much fuel.
    pub fn enter(&self, tenant: Tenant, weight: u32, fuel: u64) -> Turn<'_> {
        let mut state = self.lock();
        state.arrive(tenant, weight);
        while state.holder.is_some() || state.next() != Some(tenant) {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.serve(tenant);
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
        state.charge(self.tenant, self.weight, self.fuel);
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
        let (turns, end) = (Turns::new(1000), AtomicBool::new(false));
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

    /// What the first of two tenants gets of `turns` turns, of work that it does
    /// in such pieces, after which it is away for one turn. The other one never
    /// is, and its pieces are slices.
    fn share(uids: [u32; 2], pieces: &[u64], turns: usize) -> f64 {
        let Turns { state, .. } = Turns::new(1000);
        let mut state = state.into_inner().unwrap();
        let [short, long] = [tenant(uids[0], 1), tenant(uids[1], 2)];
        let (mut got, mut piece) = ([0, 0], 0);
        state.arrive(short, 1);
        state.arrive(long, 1);
        for _ in 0..turns {
            let tenant = state.next().unwrap();
            state.serve(tenant);
            if tenant == long {
                // Meanwhile the other one's request has come.
                if !state.waiting.contains(&short) {
                    state.arrive(short, 1);
                }
                state.charge(long, 1, 1000);
                got[1] += 1000;
                state.arrive(long, 1);
            } else {
                state.charge(short, 1, pieces[piece]);
                got[0] += pieces[piece];
                piece = (piece + 1) % pieces.len();
                if piece > 0 {
                    state.arrive(short, 1);
                }
            }
        }
        got[0] as f64 / (got[0] + got[1]) as f64
    }

    #[test]
    fn a_request_on_its_way_costs_no_share() {
        for uids in [[1, 2], [1, 1]] {
            for pieces in [&[1000, 100][..], &[1000, 1000, 10], &[1000], &[1000, 900]] {
                let share = share(uids, pieces, 3000);
                assert!((0.49..0.51).contains(&share), "{uids:?} {pieces:?}: {share}");
            }
            // Who asks for little gets that, and not the other's share as well.
            let share = share(uids, &[100], 3000);
            assert!((0.05..0.15).contains(&share), "{uids:?}: {share}");
        }
    }

    /// However long it was away, it comes back with one slice.
    #[test]
    fn who_was_away_comes_back_with_the_credit_of_a_slice() {
        let Turns { state, .. } = Turns::new(1000);
        let mut state = state.into_inner().unwrap();
        let (steady, back) = (tenant(1, 1), tenant(2, 2));
        let turn = |state: &mut State| {
            let tenant = state.next().unwrap();
            state.serve(tenant);
            state.charge(tenant, 1, 1000);
            state.arrive(tenant, 1);
            tenant
        };
        state.arrive(back, 1);
        state.serve(back);
        state.charge(back, 1, 1000);
        state.arrive(steady, 1);
        (0..100).for_each(|_| assert_eq!(turn(&mut state), steady));
        state.arrive(back, 1);
        let served: Vec<_> = (0..40).map(|_| turn(&mut state)).collect();
        let of_back = served.iter().filter(|tenant| **tenant == back).count();
        assert!((20..=22).contains(&of_back), "{of_back} of 40");
    }

    #[test]
    fn who_holds_the_device_too_long_is_known() {
        let turns = Turns::new(1000);
        assert_eq!(turns.stuck(Duration::ZERO), None);
        let turn = turns.enter(tenant(7, 1), 1, 1);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(turns.stuck(Duration::from_millis(1)), Some(tenant(7, 1)));
        drop(turn);
        assert_eq!(turns.stuck(Duration::ZERO), None);
    }
}
