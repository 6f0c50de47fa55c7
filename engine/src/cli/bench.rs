//! `terrarium bench`.

use super::args::Bench;
use super::{Ended, exit};

/// Measures.
pub fn bench(_args: &Bench) -> Ended {
    Ok(exit::FAILED)
}
