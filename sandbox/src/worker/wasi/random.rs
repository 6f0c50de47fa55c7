//! Random numbers that follow from the evaluation's seed.
//!
//! Not even "secure" ones are secret here: whoever needs a secret is in the
//! wrong place. The same seed gives the same bits.

use super::{CALL_FUEL, State, charge};
use crate::Outcome;
use crate::worker::shards::stream;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// Random bytes in one call.
const MOST_BYTES: u64 = 1 << 20;

/// The places of the seed's own stream that each source is keyed by.
const SECURE: usize = 0;
const INSECURE: usize = 1;
const KEYS: [u64; 2] = [0x7365_6375_7265, 0x696e_7365_6375_7265];

type Store<'a> = StoreContextMut<'a, State>;

/// The next number of one of the two sources.
fn draw(state: &mut State, source: usize) -> u64 {
    let seed = stream(state.evaluation.seed, KEYS[source]);
    let drawn = &mut state.wasi().drawn[source];
    *drawn += 1;
    stream(seed, *drawn)
}

fn bytes(store: &mut Store<'_>, source: usize, count: u64) -> wasmtime::Result<(Vec<u8>,)> {
    if count > MOST_BYTES {
        return store.data_mut().end(Outcome::HostDenied {
            call: "wasi:random".into(),
            reason: format!("{count} bytes at once; at most {MOST_BYTES} are given"),
        });
    }
    charge(store, CALL_FUEL + count)?;
    let mut bytes = Vec::with_capacity(count as usize + 8);
    while (bytes.len() as u64) < count {
        bytes.extend_from_slice(&draw(store.data_mut(), source).to_le_bytes());
    }
    bytes.truncate(count as usize);
    Ok((bytes,))
}

fn number(store: &mut Store<'_>, source: usize) -> wasmtime::Result<(u64,)> {
    charge(store, CALL_FUEL)?;
    Ok((draw(store.data_mut(), source),))
}

/// `wasi:random`, all three interfaces.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut secure = linker.instance("wasi:random/random@0.2.12")?;
    secure
        .func_wrap("get-random-bytes", |mut s: Store<'_>, (count,): (u64,)| bytes(&mut s, SECURE, count))?;
    secure.func_wrap("get-random-u64", |mut s: Store<'_>, (): ()| number(&mut s, SECURE))?;
    let mut insecure = linker.instance("wasi:random/insecure@0.2.12")?;
    insecure.func_wrap("get-insecure-random-bytes", |mut s: Store<'_>, (count,): (u64,)| {
        bytes(&mut s, INSECURE, count)
    })?;
    insecure.func_wrap("get-insecure-random-u64", |mut s: Store<'_>, (): ()| number(&mut s, INSECURE))?;
    let mut seed = linker.instance("wasi:random/insecure-seed@0.2.12")?;
    seed.func_wrap("insecure-seed", |mut store: Store<'_>, (): ()| {
        charge(&mut store, CALL_FUEL)?;
        let seed = store.data().evaluation.seed;
        Ok(((stream(seed, u64::MAX - 1), stream(seed, u64::MAX)),))
    })
}
