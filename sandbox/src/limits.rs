//! The limits of one evaluation, declared once.
//!
//! Every surface (this struct, `[budget]` in `task.toml`, `--limit name=value`
//! on the command line, the help text) is derived from the one table below.
//!
//! What is *not* limited here: the compiler (see [`crate::jail`]) and the
//! shape of a module (see [`crate::gate`]), which have tables of their own
//! because they apply before there is anything to run.

use serde::{Deserialize, Serialize};

/// One row of the table: a limit's name, default, range and meaning.
#[derive(Clone, Copy, Debug)]
pub struct LimitField {
    /// Name in TOML, JSON and `--limit`.
    pub name: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// Value when nothing else is said.
    pub default: u64,
    /// Smallest accepted value.
    pub low: u64,
    /// Largest accepted value.
    pub high: u64,
    /// What it bounds.
    pub doc: &'static str,
}

/// A limit that was named wrongly or set out of its range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// No limit of this name.
    #[error("there is no limit named `{name}`; the limits are: {known}")]
    Unknown {
        /// The name as given.
        name: String,
        /// All names, comma separated.
        known: String,
    },
    /// Outside the accepted range.
    #[error("{name} = {value} is out of range: {low}..={high} {unit}")]
    Range {
        /// The limit.
        name: &'static str,
        /// The value as given.
        value: u64,
        /// Smallest accepted value.
        low: u64,
        /// Largest accepted value.
        high: u64,
        /// Unit.
        unit: &'static str,
    },
}

macro_rules! limits {
    ($($name:ident: $default:expr, $low:expr, $high:expr, $unit:literal, $doc:literal;)*) => {
        /// Hard limits of one evaluation. See [`Limits::FIELDS`] for units and ranges.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits { $(#[doc = $doc] pub $name: u64,)* }

        impl Default for Limits {
            fn default() -> Self { Self { $($name: $default,)* } }
        }

        impl Limits {
            /// The table that every surface is derived from.
            pub const FIELDS: &'static [LimitField] = &[$(LimitField {
                name: stringify!($name), unit: $unit, default: $default,
                low: $low, high: $high, doc: $doc,
            },)*];

            /// Sets one limit by name.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), LimitError> {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => return Err(LimitError::Unknown {
                        name: name.to_owned(),
                        known: Self::FIELDS.iter().map(|f| f.name).collect::<Vec<_>>().join(", "),
                    }),
                }
                self.check()
            }

            /// Whether each value is in its range.
            pub fn check(&self) -> Result<(), LimitError> {
                for (field, value) in Self::FIELDS.iter().zip([$(self.$name,)*]) {
                    if value < field.low || value > field.high {
                        return Err(LimitError::Range {
                            name: field.name, value, low: field.low, high: field.high, unit: field.unit,
                        });
                    }
                }
                Ok(())
            }
        }
    };
}

const MIB: u64 = 1 << 20;

limits! {
    fuel: 20_000_000_000, 1_000, 1 << 60, "instructions", "Metered guest instructions, all phases together.";
    device_fuel: 400_000_000_000, 1, 1 << 60, "device fuel", "Kernel work while training, by the cost model of terrarium-kernels.";
    forward_device_fuel: 400_000_000_000, 1, 1 << 60, "device fuel", "Kernel work of all held-out `forward` calls together.";
    train_wall_ms: 0, 0, 7 * 86_400_000, "ms", "Training budget in wall-clock time, for tasks budgeted that way; 0: none.";
    wall_ms: 60_000, 10, 7 * 86_400_000, "ms", "Deadline of the whole evaluation; the worker is killed after it.";
    memory_bytes: 256 * MIB, 65_536, 4096 * MIB, "bytes", "Linear memory of the guest.";
    table_elements: 20_000, 0, 10_000_000, "elements", "Tables of the guest.";
    device_bytes: 1024 * MIB, 4096, 1 << 46, "bytes", "Device memory.";
    tensors: 65_536, 1, 1 << 24, "handles", "Live tensors.";
    graphs: 1_024, 1, 1 << 20, "handles", "Live recorded graphs.";
    graph_ops: 1 << 18, 1, 1 << 26, "operations", "Operations of all live recorded graphs together, with the nodes of their row kernels.";
    ops_per_list: 65_536, 1, 1 << 22, "operations", "Operations in one submitted or recorded list.";
    launch_device_fuel: 100_000_000_000, 1, 1 << 60, "device fuel", "The largest single operation.";
    transfer_bytes: 1024 * MIB, 0, 1 << 46, "bytes", "Uploads and downloads together.";
    host_calls: 10_000_000, 1, 1 << 50, "calls", "Calls into the host.";
    host_function_calls: 100_000, 0, 1 << 40, "calls", "Calls of functions that the embedder registered.";
    host_function_bytes: 64 * MIB, 0, 1 << 46, "bytes", "Inputs and results of the embedder's functions together.";
    log_bytes: 65_536, 0, 16 * MIB, "bytes", "Log text that is kept; the rest is dropped.";
    metrics: 10_000, 0, 1_000_000, "records", "Metric records that are kept; the rest is dropped.";
    output_bytes: MIB, 0, 256 * MIB, "bytes", "Result of `call`.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_lie_in_their_ranges_and_every_field_can_be_set() {
        let mut limits = Limits::default();
        limits.check().unwrap();
        for field in Limits::FIELDS {
            limits.set(field.name, field.low).unwrap();
            assert!(limits.set(field.name, field.high + 1).is_err(), "{}", field.name);
            limits.set(field.name, field.default).unwrap();
        }
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Limits::default().set("feul", 1).unwrap_err().to_string();
        assert!(error.contains("fuel, device_fuel"), "{error}");
    }
}
