//! The metering pass on random programs, against wasmtime's own fuel and
//! against itself at every setting of the compiler.

use std::time::{Duration, Instant};

use wasmtime::{Extern, Func};

use super::*;
use crate::gate;

/// The fuel of programs that may not end.
const SHORT: u64 = 200_000;
const PLENTY: i64 = 1 << 60;

/// SplitMix64: the random programs are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

fn random_module(seed: u64) -> Option<Vec<u8>> {
    let small = seed.is_multiple_of(4);
    let config = wasm_smith::Config {
        bulk_memory_enabled: true,
        canonicalize_nans: true,
        exceptions_enabled: false,
        export_everything: true,
        extended_const_enabled: false,
        gc_enabled: false,
        max_funcs: if small { 16 } else { 8 },
        max_imports: 0,
        max_instructions: if small { 40 } else { 400 },
        max_memories: 1,
        max_memory32_bytes: 16 << 16,
        max_element_segments: if seed.is_multiple_of(2) { 0 } else { 10 },
        max_table_elements: 1000,
        memory64_enabled: false,
        memory_max_size_required: true,
        min_funcs: if small { 8 } else { 2 },
        min_types: 1,
        multi_value_enabled: true,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        shared_everything_threads_enabled: false,
        simd_enabled: seed.is_multiple_of(3),
        tail_call_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        ..wasm_smith::Config::default()
    };
    let mut random = Random(seed);
    let bytes = random.bytes(4096);
    let module = wasm_smith::Module::new(config, &mut arbitrary::Unstructured::new(&bytes)).ok()?;
    let wasm = module.to_bytes();
    Some(if seed.is_multiple_of(2) { hide_functions(&wasm, &mut random) } else { wasm })
}

/// The module with half of its functions no longer exported, so that some can
/// be leaves. Memories and globals stay in sight.
fn hide_functions(wasm: &[u8], random: &mut Random) -> Vec<u8> {
    let mut module = wasm_encoder::Module::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        let payload = payload.expect("wasm-smith makes valid modules");
        if let wasmparser::Payload::ExportSection(exports) = &payload {
            let mut kept = wasm_encoder::ExportSection::new();
            for export in exports.clone() {
                let wasmparser::Export { name, kind, index } = export.expect("a valid export");
                let kind = match kind {
                    wasmparser::ExternalKind::Func if random.next().is_multiple_of(2) => continue,
                    wasmparser::ExternalKind::Func => wasm_encoder::ExportKind::Func,
                    wasmparser::ExternalKind::Memory => wasm_encoder::ExportKind::Memory,
                    wasmparser::ExternalKind::Table => wasm_encoder::ExportKind::Table,
                    _ => wasm_encoder::ExportKind::Global,
                };
                kept.export(name, kind, index);
            }
            module.section(&kept);
        } else if let Some((id, range)) = payload.as_section() {
            module.section(&wasm_encoder::RawSection { id, data: &wasm[range] });
        }
    }
    module.finish()
}

/// Everything of an instance that can be seen from outside.
fn state(store: &mut Store<u32>, instance: &Instance) -> Vec<String> {
    let exports: Vec<(String, Extern)> =
        instance.exports(&mut *store).map(|e| (e.name().to_owned(), e.into_extern())).collect();
    exports
        .into_iter()
        .filter_map(|(name, export)| match export {
            Extern::Global(global) => Some(format!("{name} {}", bits(&global.get(&mut *store)))),
            Extern::Memory(memory) => Some(format!("{name} {}", blake3::hash(memory.data(&*store)).to_hex())),
            _ => None,
        })
        .collect()
}

fn functions(store: &mut Store<u32>, instance: &Instance) -> Vec<(String, Func)> {
    instance
        .exports(&mut *store)
        .filter(|e| !e.name().starts_with(super::super::RESERVED))
        .map(|e| (e.name().to_owned(), e.into_func()))
        .filter_map(|(name, func)| Some((name, func?)))
        .collect()
}

fn zeros(store: &Store<u32>, function: &Func) -> Vec<Val> {
    function.ty(store).params().filter_map(|ty| Val::default_for_ty(&ty)).collect()
}

/// wasmtime with its own fuel, and without at each setting that could change
/// what a compiler makes of a program.
struct Engines {
    plain: Engine,
    settings: Vec<Engine>,
}

impl Engines {
    fn new() -> Outcome<Self> {
        let mut settings = Vec::new();
        for canonical in [true, false] {
            for level in [OptLevel::Speed, OptLevel::None, OptLevel::SpeedAndSize] {
                let mut config = Config::new();
                config.cranelift_opt_level(level).cranelift_nan_canonicalization(canonical);
                config.max_wasm_stack(1 << 20);
                settings.push(Engine::new(&config)?);
            }
        }
        Ok(Self { plain: engine(OptLevel::Speed, true)?, settings })
    }
}

/// How a call ended, the fuel left, and what can be seen of the instance.
type Seen = (End, i64, Vec<String>);

/// Whether all settings agree on values. With canonical NaN they must, and on
/// the fuel left; without, they may differ in the bits of a NaN, but where
/// the values are the same, so is the fuel.
fn alike(seed: u64, name: &str, seen: &[Seen]) -> bool {
    let (canonical, others) = seen.split_at(3);
    for other in &canonical[1..] {
        assert_eq!(canonical[0], *other, "seed {seed} {name}: levels differ");
    }
    let (end, left, state) = &canonical[0];
    for other in others {
        if (&other.0, &other.2) != (end, state) {
            return false;
        }
        assert_eq!(other.1, *left, "seed {seed} {name}: fuel differs without canonical NaN");
    }
    true
}

/// What the random programs did.
#[derive(Debug, Default)]
struct Counts {
    modules: u64,
    leaves: u64,
    returned: u64,
    trapped: u64,
    too_long: u64,
    /// Calls that were repeated with less fuel than they need.
    cut: u64,
    /// Of these, where wasmtime's fuel ran out as well.
    both_stopped: u64,
    /// Calls whose values showed the bits of a NaN.
    nan_bits: u64,
    /// Runs of metered code.
    runs: u64,
    /// The most fuel charged for one of wasmtime's, in calls of at least 1000.
    most_for_one: f64,
}

/// One random module: metering changes nothing but the end of what runs too
/// long, charges at least what wasmtime does, and everything about it (how it
/// ended, the fuel left, memory and globals) is the same at every setting.
fn examine(seed: u64, engines: &Engines, counts: &mut Counts) -> Outcome<()> {
    let config = MeterConfig::default();
    let Some(wasm) = random_module(seed) else {
        return Ok(());
    };
    let metered = instrument(&wasm, &config)?;
    wasmparser::Validator::new_with_features(gate::accepted_features()).validate_all(&metered.module)?;
    counts.modules += 1;
    counts.leaves += u64::from(metered.leaves);

    let mut store = Store::new(&engines.plain, 0);
    store.set_fuel(SHORT)?;
    let plain = Module::new(&engines.plain, &wasm)?;
    let started = Instance::new(&mut store, &plain, &[]);
    let Ok(instance) = started else {
        let end = ending(None, started.map(|_| Vec::new()))?;
        if !matches!(end, End::Trapped(Trap::OutOfFuel | Trap::StackOverflow)) {
            let mut store = Store::new(&engines.settings[0], 0);
            let module = Module::new(&engines.settings[0], &metered.module)?;
            let result = Instance::new(&mut store, &module, &[]).map(|_| Vec::new());
            assert_eq!(ending(Some(&metered), result)?, end, "seed {seed}");
        }
        return Ok(());
    };
    let mut guests = Vec::new();
    let mut refused = 0;
    for engine in &engines.settings {
        match Guest::start(&Module::new(engine, &metered.module)?, &metered) {
            Ok(guest) => guests.push(guest),
            // A start function that asks for memory without end is out of fuel
            // here, where wasmtime charges it little.
            Err(error) => {
                assert_eq!(ending(Some(&metered), Err(error))?, OUT_OF_FUEL, "seed {seed}");
                refused += 1;
            }
        }
    }
    if refused > 0 {
        assert_eq!(refused, engines.settings.len(), "seed {seed}: settings of the compiler differ");
        return Ok(());
    }
    let mut fresh = true;
    for (name, function) in functions(&mut store, &instance) {
        let params = zeros(&store, &function);
        store.set_fuel(SHORT)?;
        let mut results = vec![Val::I32(0); function.ty(&store).results().len()];
        let result = function.call(&mut store, &params, &mut results).map(|()| results);
        let end = ending(None, result)?;
        let used = SHORT - store.get_fuel()?;
        let before = state(&mut store, &instance);
        let too_long = matches!(end, End::Trapped(Trap::OutOfFuel | Trap::StackOverflow));
        let fuel = if too_long { SHORT as i64 } else { PLENTY };
        let mut seen = Vec::new();
        for guest in &mut guests {
            let (end, left) = guest.call(&name, &params, fuel)?;
            seen.push((end, left, state(&mut guest.store, &guest.instance)));
            counts.runs += 1;
        }
        if !alike(seed, &name, &seen) {
            counts.nan_bits += 1;
            break;
        }
        let (metered_end, left, after) = &seen[0];
        if too_long {
            let ok = matches!(metered_end, End::Exhausted(_));
            assert!(ok || *left < 0, "seed {seed} {name}: {metered_end:?}");
            counts.too_long += 1;
            // The unmetered one stopped somewhere else: its state is another.
            break;
        }
        if *metered_end == OUT_OF_STACK {
            break;
        }
        assert_eq!(*metered_end, end, "seed {seed} {name}");
        assert_eq!(*after, before, "seed {seed} {name}");
        let End::Returned(_) = end else {
            counts.trapped += 1;
            fresh = false;
            continue;
        };
        counts.returned += 1;
        let cost = fuel - left;
        assert!(cost >= used as i64, "seed {seed} {name}: charged {cost}, wasmtime {used}");
        if used >= 1000 {
            counts.most_for_one = counts.most_for_one.max(cost as f64 / used as f64);
        }
        if fresh {
            let modules: Vec<_> = guests.iter().map(|g| g.instance.module(&g.store).clone()).collect();
            cut_short(seed, &modules, &plain, &metered, (&name, &params), (&end, cost), counts)?;
        }
        fresh = false;
    }
    Ok(())
}

/// The first call of a fresh instance, which returns for `cost`, again with
/// exactly that and with less.
fn cut_short(
    seed: u64,
    modules: &[Module],
    plain: &Module,
    metered: &Metered,
    (name, params): (&str, &[Val]),
    (end, cost): (&End, i64),
    counts: &mut Counts,
) -> Outcome<()> {
    let some = (Random(seed ^ 0x00c0_ffee).next() % cost as u64) as i64;
    for fuel in [cost, some, cost - 1] {
        let mut seen = Vec::new();
        for module in modules {
            let mut guest = Guest::start(module, metered)?;
            let (end, left) = guest.call(name, params, fuel)?;
            seen.push((end, left, state(&mut guest.store, &guest.instance)));
            counts.runs += 1;
        }
        if !alike(seed, name, &seen) {
            counts.nan_bits += 1;
            return Ok(());
        }
        let (short_end, left, _) = &seen[0];
        if fuel == cost {
            assert_eq!((short_end, *left), (end, 0), "seed {seed} {name}");
            continue;
        }
        // It stops (what was refused is charged, however much it was), or
        // ends on credit; frames are few here.
        let bounded = *short_end == OUT_OF_FUEL || *left >= -64 * UNCHECKED;
        assert!(*left < 0 && bounded, "seed {seed} {name}: {short_end:?} {left}");
        assert!(*short_end == OUT_OF_FUEL || short_end == end, "seed {seed} {name}: {short_end:?}");
        counts.cut += 1;
        // Where wasmtime's fuel stops it, so does ours: never by charging less.
        let mut store = Store::new(plain.engine(), 0);
        store.set_fuel(PLENTY as u64)?;
        let instance = Instance::new(&mut store, plain, &[])?;
        store.set_fuel(fuel as u64)?;
        let function = instance.get_func(&mut store, name).ok_or("no such export")?;
        let mut results = vec![Val::I32(0); function.ty(&store).results().len()];
        match ending(None, function.call(&mut store, params, &mut results).map(|()| results))? {
            End::Trapped(Trap::OutOfFuel) => counts.both_stopped += 1,
            finished => assert_eq!(finished, *end, "seed {seed} {name}"),
        }
    }
    Ok(())
}

#[test]
fn random_programs_are_metered_alike_at_every_setting() -> Outcome<()> {
    let engines = Engines::new()?;
    let mut counts = Counts::default();
    for seed in 0..60 {
        examine(seed, &engines, &mut counts)?;
    }
    // The test is about all kinds.
    let Counts { leaves, returned, trapped, too_long, cut, .. } = counts;
    let kinds = [leaves, returned, trapped, too_long, cut];
    assert!(kinds.iter().all(|count| *count >= 10), "{counts:?}");
    Ok(())
}

/// As long as one likes:
/// `SOAK_SECONDS=300 cargo test --release --workspace --lib soak -- --ignored --nocapture`
/// (and `SOAK_SEED=N` for the first seed).
#[test]
#[ignore = "minutes: SOAK_SECONDS=300 cargo test --release --workspace --lib soak -- --ignored --nocapture"]
fn soak_random_programs() -> Outcome<()> {
    let number = |name: &str, default: u64| -> Outcome<u64> {
        Ok(std::env::var(name).map_or(Ok(default), |text| text.parse())?)
    };
    let (seconds, mut seed) = (number("SOAK_SECONDS", 300)?, number("SOAK_SEED", 1_000_000)?);
    let engines = Engines::new()?;
    let mut counts = Counts::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        examine(seed, &engines, &mut counts)?;
        seed += 1;
    }
    println!("up to seed {seed}: {counts:?}");
    Ok(())
}
