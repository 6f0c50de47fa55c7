//! What the owner of a device grants, for each user of the machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A broker's configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// The longest that one piece of work may hold the device, in
    /// milliseconds. What holds it longer is taken for a hung kernel.
    pub hung_ms: HungMs,
    /// Device fuel after which a graph lets others have the device.
    pub slice_fuel: SliceFuel,
    /// Of users that `users` does not name.
    pub default: Quota,
    /// By number of the user (uid).
    pub users: BTreeMap<String, Quota>,
}

/// Milliseconds; 20,000 unless set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HungMs(pub u64);

impl Default for HungMs {
    fn default() -> Self {
        Self(20_000)
    }
}

/// Device fuel; 2³⁰ unless set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SliceFuel(pub u64);

impl Default for SliceFuel {
    fn default() -> Self {
        Self(1 << 30)
    }
}

/// What one user may have of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Connections (workers) at a time.
    pub connections: u32,
    /// Bytes of tensors of all connections together.
    pub bytes: u64,
    /// Tensors of one connection.
    pub tensors: u32,
    /// Recorded graphs of one connection.
    pub graphs: u32,
    /// Operations of all recorded graphs of one connection, row-kernel nodes
    /// included.
    pub graph_ops: u64,
    /// Device fuel of one operation; a longer one is refused.
    pub launch_fuel: u64,
    /// Device fuel of one evaluation.
    pub evaluation_fuel: u64,
    /// Share of the device against other users, from 1.
    pub weight: u32,
}

impl Default for Quota {
    /// 64 connections, 8 GiB, 65,536 tensors, 1,024 graphs of 2²⁰ operations,
    /// 2⁴⁰ fuel an operation, any evaluation, weight 1.
    fn default() -> Self {
        Self {
            connections: 64,
            bytes: 8 << 30,
            tensors: 1 << 16,
            graphs: 1024,
            graph_ops: 1 << 20,
            launch_fuel: 1 << 40,
            evaluation_fuel: u64::MAX >> 1,
            weight: 1,
        }
    }
}

impl BrokerConfig {
    /// What the user with this number may have.
    pub fn of(&self, uid: u32) -> &Quota {
        self.users.get(&uid.to_string()).unwrap_or(&self.default)
    }

    /// Looks for values that make no sense.
    ///
    /// # Errors
    /// A text that names the setting and its range.
    pub fn check(&self) -> Result<(), String> {
        if self.hung_ms.0 == 0 {
            return Err("hung_ms must be at least 1".into());
        }
        if self.slice_fuel.0 == 0 {
            return Err("slice_fuel must be at least 1".into());
        }
        for (name, quota) in &self.users {
            if name.parse::<u32>().is_err() {
                return Err(format!("users.{} is no user's number", crate::clean(name, 40)));
            }
            if quota.weight == 0 {
                return Err(format!("users.{name}.weight must be at least 1"));
            }
        }
        if self.default.weight == 0 {
            return Err("default.weight must be at least 1".into());
        }
        Ok(())
    }
}
