//! A run's folder: `run.toml`, `terrarium.db`, `blobs/`, and the lock.
//!
//! `run.toml` is written last, by rename: a folder that has one is complete.
//! It is frozen: its digest is the first event of the ledger.

mod data;
mod probe;

pub use data::DataSnapshot;
pub use probe::fresh_probe_secret;

use crate::archive::Archive;
use crate::blobs::{Blobs, sync_folder};
use crate::candidate::Candidate;
use crate::error::EngineError;
use crate::ids::BlobId;
use crate::task::Task;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The task's guide in the run's folder.
const GUIDE: &str = "TASK.md";

/// The format of `run.toml`.
pub const SCHEMA: i64 = 1;

/// The frozen configuration of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// [`SCHEMA`].
    pub schema: i64,
    /// Which engine made it.
    pub engine: String,
    /// From which every random number follows.
    pub seed: u64,
    /// Compiler, sandbox and device: [`crate::evaluate::Evaluate::identity`].
    pub identity: String,
    /// Source of the baseline, among the blobs.
    pub baseline: BlobId,
    /// The data, for world `trainer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSnapshot>,
    /// The task as it was when the run started.
    pub definition: Task,
}

/// What a new run is made of.
#[derive(Clone, Debug)]
pub struct NewRun<'a> {
    /// The task, with any overrides already in it.
    pub task: &'a Task,
    /// Source text of the baseline.
    pub source: &'a str,
    /// The run's seed, below 2⁶³.
    pub seed: u64,
    /// See [`RunConfig::identity`].
    pub identity: &'a str,
    /// The data, for world `trainer`.
    pub data: Option<DataSnapshot>,
}

/// An open run, held by this process alone.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    config: RunConfig,
    config_digest: BlobId,
    archive: Archive,
    blobs: Blobs,
    /// Holds the lock until it is dropped, or the process dies.
    _lock: Option<File>,
}

impl RunFolder {
    /// Makes a new run in `path`, which must be new, empty, or left behind by
    /// a creation that was killed.
    pub fn create(path: &Path, new: &NewRun<'_>) -> Result<Self, EngineError> {
        new.task.check()?;
        if i64::try_from(new.seed).is_err() {
            return Err(EngineError::SeedTooLarge(new.seed));
        }
        std::fs::create_dir_all(path).map_err(|e| EngineError::io("create", path, e))?;
        // Asked first: a run's folder also holds a report, which is not foreign.
        let refuse_run = || match path.join("run.toml").exists() {
            true => Err(EngineError::RunExists { path: path.to_path_buf() }),
            false => Ok(()),
        };
        refuse_run()?;
        refuse_foreign_folder(path)?;
        let lock = lock(path)?;
        refuse_run()?;
        let blobs = Blobs::open(&path.join("blobs"))?;
        let baseline = blobs.put(new.source.as_bytes())?;
        drop(Archive::open(&path.join("terrarium.db"))?);
        probe::create(path)?;
        let config = RunConfig {
            schema: SCHEMA,
            engine: concat!("terrarium ", env!("CARGO_PKG_VERSION")).into(),
            seed: new.seed,
            identity: new.identity.into(),
            baseline,
            data: new.data.clone(),
            definition: new.task.clone(),
        };
        write_config(path, &config)?;
        Self::load(path, Some(lock))
    }

    /// Opens an existing run to continue it.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        refuse_missing_run(path)?;
        let lock = lock(path)?;
        let folder = Self::load(path, Some(lock))?;
        folder.blobs.sweep()?;
        Ok(folder)
    }

    /// Opens an existing run to read it, also while it is going on. A broken
    /// ledger does not stop this: `verify` and reports have to say so.
    pub fn open_to_read(path: &Path) -> Result<Self, EngineError> {
        refuse_missing_run(path)?;
        Self::load(path, None)
    }

    fn load(path: &Path, lock: Option<File>) -> Result<Self, EngineError> {
        let (config, config_digest) = read_config(path)?;
        let database = path.join("terrarium.db");
        let archive = match &lock {
            Some(_) if database.is_file() => Archive::open(&database)?,
            _ => Archive::open_read_only(&database)?,
        };
        let blobs = Blobs::open(&path.join("blobs"))?;
        Ok(Self { path: path.to_path_buf(), config, config_digest, archive, blobs, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The frozen configuration.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// BLAKE3 of `run.toml`.
    pub fn config_digest(&self) -> &BlobId {
        &self.config_digest
    }

    /// The frozen task.
    pub fn task(&self) -> &Task {
        &self.config.definition
    }

    /// Candidates, evaluations, ledger.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Sources.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The program that the task came with.
    pub fn baseline(&self) -> Candidate {
        Candidate::baseline(self.config.baseline.clone())
    }

    /// Decides where honesty probes go; see [`fresh_probe_secret`].
    pub fn probe_secret(&self) -> Result<u64, EngineError> {
        probe::read(&self.path)
    }

    /// Keeps what proposers are told of the task. It is no part of the frozen
    /// configuration: scores do not depend on it.
    pub fn write_guide(&self, text: &str) -> Result<(), EngineError> {
        let path = self.path.join(GUIDE);
        std::fs::write(&path, text).map_err(|e| EngineError::io("write", &path, e))
    }

    /// What proposers are told of the task; empty if there is nothing.
    pub fn guide(&self) -> String {
        crate::task::read_text(&self.path.join(GUIDE)).unwrap_or_default()
    }

    /// A candidate's source text, verified.
    pub fn source(&self, candidate: &Candidate) -> Result<String, EngineError> {
        self.blobs.text(&candidate.source)
    }

    /// Refuses to mix scores of different compilers, sandboxes or devices.
    pub fn check_identity(&self, present: &str) -> Result<(), EngineError> {
        if self.config.identity == present {
            return Ok(());
        }
        Err(EngineError::OtherIdentity { recorded: self.config.identity.clone(), present: present.into() })
    }
}

fn refuse_missing_run(path: &Path) -> Result<(), EngineError> {
    if path.join("run.toml").is_file() {
        Ok(())
    } else {
        Err(EngineError::NotARun { path: path.to_path_buf() })
    }
}

/// Only what an interrupted creation leaves behind may be there.
fn refuse_foreign_folder(path: &Path) -> Result<(), EngineError> {
    const OURS: [&str; 8] = [
        probe::FILE,
        "run.toml",
        "run.lock",
        "blobs",
        "terrarium.db",
        "terrarium.db-wal",
        "terrarium.db-shm",
        "terrarium.db-journal",
    ];
    let failed = |e| EngineError::io("read", path, e);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if !OURS.contains(&name.as_ref()) && !name.starts_with(".partial-") {
            return Err(EngineError::FolderNotEmpty { path: path.to_path_buf() });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, EngineError> {
    let name = path.join("run.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|e| EngineError::io("open", &name, e))?;
    // The lock goes with the process, however it ends.
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(EngineError::Locked { path: path.to_path_buf() }),
        Err(error) => Err(EngineError::io("lock", &name, error.into())),
    }
}

fn write_config(folder: &Path, config: &RunConfig) -> Result<(), EngineError> {
    let path = folder.join("run.toml");
    let failed = |e| EngineError::io("write", &path, e);
    let body = toml::to_string(config)
        .map_err(|e| EngineError::BadRunConfig { path: path.clone(), what: e.to_string() })?;
    let text = format!("# The frozen configuration of a run. Changing it makes the run unusable.\n{body}");
    let mut file = tempfile::Builder::new().prefix(".partial-").tempfile_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|e| failed(e.error))?;
    sync_folder(folder)
}

fn read_config(folder: &Path) -> Result<(RunConfig, BlobId), EngineError> {
    #[derive(Deserialize)]
    struct Version {
        schema: i64,
    }
    let path = folder.join("run.toml");
    let bad = |what: String| EngineError::BadRunConfig { path: path.clone(), what };
    let text = std::fs::read_to_string(&path).map_err(|e| EngineError::io("read", &path, e))?;
    // The version first: another version may have other fields.
    let version: Version = toml::from_str(&text).map_err(|e| bad(e.message().to_owned()))?;
    if version.schema != SCHEMA {
        return Err(EngineError::OtherVersion { path, found: version.schema, expected: SCHEMA });
    }
    let config: RunConfig = toml::from_str(&text).map_err(|e| bad(e.message().to_owned()))?;
    config.definition.check()?;
    Ok((config, BlobId::of(text.as_bytes())))
}

#[cfg(test)]
mod tests;
