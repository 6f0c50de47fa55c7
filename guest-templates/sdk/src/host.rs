//! One door to the host: the imports on WebAssembly, the installed
//! [`crate::native::NativeHost`] elsewhere. Nothing else calls either.

#[cfg(target_arch = "wasm32")]
use crate::bindings::trainer::terrarium::guest::report;
use crate::bindings::trainer::terrarium::guest::{budget, compute, data, knobs};
use crate::error::Result;

/// Functions that may fail: `name(args) -> T` on interface `compute` or `data`.
macro_rules! fallible {
    ($($module:ident :: $name:ident ( $($arg:ident : $ty:ty),* ) -> $out:ty;)*) => {$(
        pub(crate) fn $name($($arg: $ty),*) -> Result<$out> {
            #[cfg(target_arch = "wasm32")]
            return Ok($module::$name($($arg),*)?);
            #[cfg(not(target_arch = "wasm32"))]
            return match crate::native::with(|host| host.$name($($arg),*)) {
                Some(result) => Ok(result?),
                None => Err(crate::native::no_host()),
            };
        }
    )*};
}

fallible! {
    compute::alloc(dtype: compute::Dtype, shape: &[u32]) -> u64;
    compute::view(of: u64, offset: u64, shape: &[u32]) -> u64;
    compute::free(tensor: u64) -> ();
    compute::shape(tensor: u64) -> Vec<u32>;
    compute::upload_floats(tensor: u64, offset: u64, values: &[f32]) -> ();
    compute::upload_ints(tensor: u64, offset: u64, values: &[i32]) -> ();
    compute::download_floats(tensor: u64, offset: u64, count: u32) -> Vec<f32>;
    compute::download_ints(tensor: u64, offset: u64, count: u32) -> Vec<i32>;
    compute::submit(ops: &[compute::Op]) -> ();
    compute::record_graph(ops: &[compute::Op]) -> u64;
    compute::cost(graph: u64) -> u64;
    compute::replay(graph: u64) -> ();
    compute::free_graph(graph: u64) -> ();
    data::next_batch(tokens: u64, targets: u64) -> ();
}

/// Functions that cannot fail: the import's path, the native method, and the
/// answer where no host is installed.
macro_rules! infallible {
    ($($name:ident = $path:path, ( $($arg:ident : $ty:ty),* ) -> $out:ty, else $absent:expr;)*) => {$(
        pub(crate) fn $name($($arg: $ty),*) -> $out {
            #[cfg(target_arch = "wasm32")]
            return $path($($arg),*);
            #[cfg(not(target_arch = "wasm32"))]
            return crate::native::with(|host| host.$name($($arg),*)).unwrap_or($absent);
        }
    )*};
}

infallible! {
    describe = data::describe, () -> data::Info,
        else data::Info { vocabulary: 0, context: 0, train_tokens: 0 };
    knob_number = knobs::number, (name: &str, default: f64, low: f64, high: f64, scale: knobs::Scale) -> f64,
        else default;
    knob_integer = knobs::integer, (name: &str, default: i64, low: i64, high: i64, scale: knobs::Scale) -> i64,
        else default;
    knob_choice = knobs::choice, (name: &str, default: u32, options: &[String]) -> u32,
        else default;
    log = report::log, (message: &str) -> (), else ();
    metric = report::metric, (name: &str, step: u64, value: f64) -> (), else ();
    budget = budget::get, () -> budget::State,
        else budget::State { device_fuel_total: 0, device_fuel_left: 0, progress: 1.0 };
}
