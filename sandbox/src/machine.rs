//! The configuration of wasmtime, shared by the process that compiles and the
//! process that runs: precompiled code is accepted only where both agree.

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy};

/// Stack that compiled guest code may use. The metered call depth ends a
/// recursion long before, so that where it ends does not depend on frame sizes.
pub const WASM_STACK_BYTES: usize = 2 << 20;

/// Name of everything that decides the meaning of compiled code: compiler,
/// settings and the charging rule. Part of the cache key, and recorded with
/// every run. The number goes up when the metering pass changes.
pub fn identity() -> String {
    format!("wasmtime 48.0.8 cranelift speed; metering 2 {:?}", crate::meter::MeterConfig::default())
}

fn base() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        .memory_init_cow(true);
    config
}

/// For the compiling process.
pub fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&base())
}

/// For a worker: one instance at a time, from a pool, so that a fresh store
/// costs microseconds.
pub fn runner(memory_bytes: u64, table_elements: u64) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(2)
        .total_core_instances(16)
        .total_memories(2)
        .total_tables(8)
        .max_memory_size(usize::try_from(memory_bytes).unwrap_or(usize::MAX))
        .table_elements(usize::try_from(table_elements).unwrap_or(usize::MAX))
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .max_unused_warm_slots(2)
        .linear_memory_keep_resident(0)
        .table_keep_resident(1 << 14);
    let mut config = base();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}
