//! What can go wrong in a run, told to the person who meets it.

use crate::evaluate::HostError;
use crate::ids::BlobId;
use crate::task::TaskError;
use std::path::{Path, PathBuf};

/// A run, or a question about one, that cannot go on. Nothing that was
/// acknowledged is lost by any of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The task is not usable.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A file could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The verb: `read`, `write`, `create` …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// No space is left for the run.
    #[error("no space left to write {}", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// Another engine works in this folder.
    #[error("{} is in use by another terrarium process", path.display())]
    Locked {
        /// The run's folder.
        path: PathBuf,
    },
    /// Not a run's folder.
    #[error("{} holds no run", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// A run lies there already.
    #[error("{} already holds a run", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something that is not ours.
    #[error("{} is not empty and holds no run", path.display())]
    FolderNotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// `run.toml` cannot be understood.
    #[error("{}: {what}", path.display())]
    BadRunConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The run was written by another version.
    #[error("{} has format version {found}; this build reads version {expected}", path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The version that this build reads.
        expected: i64,
    },
    /// The run was made with another compiler, sandbox or device.
    #[error("the run was made with `{recorded}`, but this is `{present}`")]
    OtherIdentity {
        /// As recorded in `run.toml`.
        recorded: String,
        /// Of this build on this machine.
        present: String,
    },
    /// The database failed.
    #[error("the archive {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The database holds something that cannot have been written by us.
    #[error("the archive {} is damaged: {what}", path.display())]
    DamagedArchive {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A blob is not there.
    #[error("blob {} is missing at {}", id.short(), path.display())]
    BlobMissing {
        /// Its address.
        id: BlobId,
        /// Where it should be.
        path: PathBuf,
    },
    /// A blob's bytes do not hash to its name.
    #[error("blob {} at {} is corrupt: its bytes hash to {}", id.short(), path.display(), found.short())]
    BlobCorrupt {
        /// Its address.
        id: BlobId,
        /// Where it lies.
        path: PathBuf,
        /// What its bytes hash to.
        found: BlobId,
    },
    /// The ledger's chain is broken.
    #[error("the ledger is broken at event {seq}: {what}")]
    LedgerBroken {
        /// The first event that does not fit.
        seq: u64,
        /// Why not.
        what: String,
    },
    /// What was recomputed on resume is not what was recorded.
    #[error(
        "event {seq} of the ledger differs from what this build computes\n  recorded:   {recorded}\n  recomputed: {recomputed}"
    )]
    LedgerMismatch {
        /// The first event that differs.
        seq: u64,
        /// As stored.
        recorded: String,
        /// As computed now.
        recomputed: String,
    },
    /// The sandbox or the machine failed; the candidate is not to blame.
    #[error("{message}")]
    Host {
        /// What happened.
        message: String,
        /// What to try.
        hint: String,
    },
    /// The program that the task came with does not run.
    #[error("the baseline failed on seed {seed}: {outcome}")]
    BaselineFailed {
        /// The seed.
        seed: u64,
        /// How it ended.
        outcome: terrarium_sandbox::Outcome,
    },
    /// `[search.proposers]` names one that does not exist.
    #[error("there is no proposer `{name}`")]
    UnknownProposer {
        /// As written.
        name: String,
        /// Those that exist, comma separated.
        known: String,
    },
    /// The data is not what the run started with.
    #[error("the data in {} changed since the run started", path.display())]
    DataChanged {
        /// Its folder.
        path: PathBuf,
    },
    /// A file of the data holds nothing.
    #[error("{} is empty", path.display())]
    EmptyData {
        /// The file.
        path: PathBuf,
    },
    /// A seed that cannot be stored.
    #[error("seed {0} is too large: seeds are 0..=9223372036854775807")]
    SeedTooLarge(u64),
}

impl From<HostError> for EngineError {
    fn from(error: HostError) -> Self {
        Self::Host { message: error.message, hint: error.hint }
    }
}

impl EngineError {
    /// One thing to try.
    pub fn hint(&self) -> String {
        match self {
            Self::Task(error) => error.hint(),
            Self::Io { .. } => "check the path and its permissions".into(),
            Self::DiskFull { .. } => {
                "free some space, then `terrarium resume`: everything acknowledged so far is kept".into()
            }
            Self::Locked { .. } => "wait for it to end, or choose another folder with --out".into(),
            Self::NotARun { .. } => {
                "give the folder that `terrarium run` printed; a folder without run.toml was never \
                 finished being created and can be deleted".into()
            }
            Self::RunExists { .. } => {
                "continue it with `terrarium resume`, or choose another folder with --out".into()
            }
            Self::FolderNotEmpty { .. } => "choose an empty or new folder with --out".into(),
            Self::BadRunConfig { .. } => "run.toml is frozen when a run starts: restore it".into(),
            Self::OtherVersion { .. } => "use the version of terrarium that made the run".into(),
            Self::OtherIdentity { .. } => {
                "scores would not be comparable: resume with the same toolchain and device, or start a new run".into()
            }
            Self::Database { .. } | Self::DamagedArchive { .. } => {
                "copy the folder somewhere safe before anything else; `terrarium verify` says how much is intact".into()
            }
            Self::BlobMissing { .. } | Self::BlobCorrupt { .. } => {
                "restore the file from a copy; if it is a template's source, its text has the same address".into()
            }
            Self::LedgerBroken { .. } => "the record was altered after it was written: do not trust this run".into(),
            Self::LedgerMismatch { .. } => {
                "the build, the task or the record changed since: resume with the build that started the run".into()
            }
            Self::Host { hint, .. } => hint.clone(),
            Self::BaselineFailed { outcome, .. } => {
                format!("the task's own program must run on every seed: {}", outcome.hint())
            }
            Self::UnknownProposer { known, .. } => format!("the proposers are: {known}"),
            Self::DataChanged { .. } => "restore the files, or start a new run: scores would not be comparable".into(),
            Self::EmptyData { .. } => "a corpus needs text in each of its parts: give a folder with more files".into(),
            Self::SeedTooLarge(_) => "choose a smaller seed".into(),
        }
    }

    pub(crate) fn io(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match source.kind() {
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => {
                Self::DiskFull { path: path.to_path_buf() }
            }
            _ => Self::Io { what, path: path.to_path_buf(), source },
        }
    }

    pub(crate) fn database(path: &Path, source: rusqlite::Error) -> Self {
        if let rusqlite::Error::SqliteFailure(failure, _) = &source {
            use rusqlite::ErrorCode as C;
            // A write that fails on the way to the disk is, in practice, a
            // full disk or a quota (SQLITE_IOERR_WRITE = 778).
            if failure.code == C::DiskFull || failure.extended_code == 778 {
                return Self::DiskFull { path: path.to_path_buf() };
            }
            if matches!(failure.code, C::NotADatabase | C::DatabaseCorrupt) {
                return Self::DamagedArchive { path: path.to_path_buf(), what: source.to_string() };
            }
        }
        Self::Database { path: path.to_path_buf(), source }
    }
}
