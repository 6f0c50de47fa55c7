//! What can go wrong that is no candidate's doing.

use crate::Outcome;
use crate::toolchain::ToolchainError;
use std::path::PathBuf;
use std::time::Duration;

/// The host is in trouble; the candidate is not to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// There is no compiler for candidates.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// The jail could not be built or run.
    #[error("the compile jail: {reason}")]
    Jail {
        /// What failed.
        reason: String,
        /// One thing to try.
        hint: String,
    },
    /// A child process could not do its part.
    #[error("{part}: {reason}")]
    Child {
        /// Which part.
        part: &'static str,
        /// What it said.
        reason: String,
    },
    /// The cache folder.
    #[error("the component cache {path}: {source}", path = path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A limit out of its range.
    #[error(transparent)]
    Limit(#[from] crate::LimitError),
    /// All workers were at work for as long as the caller would wait.
    #[error("all {workers} workers were busy for {waited:?}")]
    Busy {
        /// How many there may be.
        workers: usize,
        /// How long the caller waited.
        waited: Duration,
    },
    /// Host functions that cannot be registered.
    #[error("host functions: {reason}")]
    HostFunctions {
        /// What is wrong with them.
        reason: String,
    },
}

impl SandboxError {
    /// One thing to try.
    pub fn hint(&self) -> String {
        match self {
            Self::Toolchain(e) => e.hint(),
            Self::Jail { hint, .. } => hint.clone(),
            Self::Child { .. } => "run `terrarium doctor`; it shows which isolation layer is missing".into(),
            Self::Cache { .. } => {
                "check the folder's owner, rights and free space, or set TERRARIUM_CACHE".into()
            }
            Self::Limit(_) => "see the limits in `terrarium eval --help`".into(),
            Self::Busy { .. } => {
                "allow more workers or a longer wait, or drop instances that are done".into()
            }
            Self::HostFunctions { .. } => "give each function a short name of plain text".into(),
        }
    }
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The candidate's doing: it does not compile, or was refused.
    #[error("{0}")]
    Candidate(Outcome),
    /// The host's.
    #[error(transparent)]
    Host(#[from] SandboxError),
}
