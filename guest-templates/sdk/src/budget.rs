//! What remains of the training budget.

use crate::host;

/// The budget at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Device fuel of the whole budget.
    pub device_fuel_total: u64,
    /// Device fuel that is left.
    pub device_fuel_left: u64,
    /// Share of the budget that is used, 0 to 1, whether it is counted in
    /// device fuel or in wall-clock time.
    pub progress: f64,
}

/// The budget now.
/// ```no_run
/// let now = terrarium_sdk::budget::get();
/// let halfway = now.progress >= 0.5;
/// # let _ = halfway;
/// ```
///
/// A call of the host; no device fuel.
pub fn get() -> Budget {
    let state = host::budget();
    Budget {
        device_fuel_total: state.device_fuel_total,
        device_fuel_left: state.device_fuel_left,
        progress: state.progress,
    }
}
