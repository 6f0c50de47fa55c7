//! The configuration of wasmtime, shared by the process that compiles and the
//! process that runs: precompiled code is accepted only where both agree.

use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy};

/// Stack that compiled guest code may use. The metered call depth ends a
/// recursion long before, so that where it ends does not depend on frame sizes.
pub const WASM_STACK_BYTES: usize = 2 << 20;

/// What one component may have of each, all its modules together. The gate
/// allows no more, see [`crate::gate::ComponentLimits`].
pub const CORE_INSTANCES: u32 = 64;
/// Memories.
pub const MEMORIES: u32 = 4;
/// Tables.
pub const TABLES: u32 = 32;

/// Name of everything that decides the meaning of compiled code: compiler,
/// settings and the charging rule. Part of the cache key, and recorded with
/// every run. The number goes up when the metering pass changes.
pub fn identity() -> String {
    format!("wasmtime 48.0.8 cranelift speed; metering 3 {:?}", crate::meter::MeterConfig::default())
}

/// Name of what a process and its children must share: versions, the meaning of
/// compiled code, and the host interface.
pub(crate) fn build() -> &'static str {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD.get_or_init(|| {
        let interface = blake3::hash(crate::encode::WIT.as_bytes()).to_hex();
        format!("{}, interface {}, {}", env!("CARGO_PKG_VERSION"), &interface[..16], identity())
    })
}

/// Refuses the work of a parent of another build: what its child compiled would
/// be kept under the parent's name.
pub(crate) fn same_build(parent: &str) -> Result<(), String> {
    if parent == build() {
        return Ok(());
    }
    Err(format!(
        "the executable for child processes is of another build ({}) than the process that starts it \
         ({parent}); build both anew, or name the right one",
        build()
    ))
}

/// Who counts the instructions of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metering {
    /// The module itself, by the pass of [`crate::meter`].
    Module,
    /// wasmtime's own fuel: for components that somebody else put together, of
    /// several modules. As deterministic, but slower in float loops.
    Engine,
}

fn base(metering: Metering) -> Config {
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
        .consume_fuel(metering == Metering::Engine)
        .memory_init_cow(true);
    config
}

/// For the compiling process.
pub fn compiler(metering: Metering) -> wasmtime::Result<Engine> {
    Engine::new(&base(metering))
}

/// For a worker: one instance at a time, from a pool, so that a fresh store
/// costs microseconds.
pub fn runner(memory_bytes: u64, table_elements: u64, metering: Metering) -> wasmtime::Result<Engine> {
    let (instances, memories, tables) = match metering {
        Metering::Module => (16, 2, 8),
        Metering::Engine => (CORE_INSTANCES, MEMORIES, TABLES),
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(2)
        .total_core_instances(instances)
        .total_memories(memories)
        .total_tables(tables)
        // One guest at a time. The default, a thousand, is a call of the kernel
        // for each in every worker's start.
        .total_stacks(2)
        .max_memory_size(usize::try_from(memory_bytes).unwrap_or(usize::MAX))
        .table_elements(usize::try_from(table_elements).unwrap_or(usize::MAX))
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .max_unused_warm_slots(2)
        .linear_memory_keep_resident(0)
        .table_keep_resident(1 << 14);
    let mut config = base(metering);
    // Only the compiling process compiles.
    config.enable_compiler(false);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}
