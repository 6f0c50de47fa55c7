//! Named tunables, declared where they are read.
//!
//! Each call declares a knob and returns its value: the one that this
//! evaluation was given, or the default. A search turns knobs without
//! recompiling the candidate. A name may be declared again only with the same
//! range.

use crate::host;

pub use crate::bindings::trainer::terrarium::guest::knobs::Scale;

/// How a search should step through the range: evenly in the value, or
/// evenly in its logarithm (rates, sizes; `low` must be above 0).
pub use Scale::{Linear, Logarithmic};

/// A real number in [low, high].
/// ```no_run
/// use terrarium_sdk::knobs::{self, Linear, Logarithmic};
/// let rate = knobs::number("rate", 0.01, 0.001, 0.1, Logarithmic);
/// let depth = knobs::size("depth", 3, 1, 8, Linear);
/// let decay = ["linear", "cosine"][knobs::choice("decay", 0, &["linear", "cosine"])];
/// let gated = knobs::flag("gated", true);
/// # let _ = (rate, depth, decay, gated);
/// ```
///
/// A call of the host; no device fuel. At most 128 knobs.
pub fn number(name: &str, default: f64, low: f64, high: f64, scale: Scale) -> f64 {
    host::knob_number(name, default, low, high, scale)
}

/// A real number in [low, high], for use on the device.
pub fn float(name: &str, default: f64, low: f64, high: f64, scale: Scale) -> f32 {
    number(name, default, low, high, scale) as f32
}

/// A whole number in [low, high].
pub fn integer(name: &str, default: i64, low: i64, high: i64, scale: Scale) -> i64 {
    host::knob_integer(name, default, low, high, scale)
}

/// A whole number in [low, high] as a size (`low` must not be negative).
pub fn size(name: &str, default: u32, low: u32, high: u32, scale: Scale) -> u32 {
    integer(name, default.into(), low.into(), high.into(), scale).clamp(0, u32::MAX.into()) as u32
}

/// One of some options, by its place in the list.
pub fn choice(name: &str, default: u32, options: &[&str]) -> usize {
    let options: Vec<String> = options.iter().map(|&o| o.into()).collect();
    host::knob_choice(name, default, &options) as usize
}

/// On or off.
pub fn flag(name: &str, default: bool) -> bool {
    choice(name, default.into(), &["off", "on"]) == 1
}
