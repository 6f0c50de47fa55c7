//! What is to be improved.

use serde::{Deserialize, Serialize};

/// Which scores are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Smaller is better.
    Minimize,
    /// Larger is better.
    Maximize,
}

impl Direction {
    /// How much better `new` is than `old`: positive is better.
    pub fn gain(self, new: f64, old: f64) -> f64 {
        match self {
            Self::Minimize => old - new,
            Self::Maximize => new - old,
        }
    }
}
