//! The data of a run: its files, and what they held when it started.

use crate::error::EngineError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The files of one prepared corpus, and what they hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSnapshot {
    /// What candidates train on.
    pub train: PathBuf,
    /// What the search scores on.
    pub selection: PathBuf,
    /// What the final comparison scores on.
    #[serde(rename = "final")]
    pub last: PathBuf,
    /// The bytes that each token stands for; absent where tokens are bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_bytes: Option<PathBuf>,
    /// BLAKE3 over the files: scores depend on them.
    pub digest: String,
}

impl DataSnapshot {
    /// Reads the files once, to know what they hold. Empty ones are refused.
    /// Paths are made absolute.
    pub fn take(
        train: &Path,
        selection: &Path,
        last: &Path,
        token_bytes: Option<&Path>,
    ) -> Result<Self, EngineError> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|e| EngineError::io("resolve", path, e));
        let mut snapshot = Self {
            train: absolute(train)?,
            selection: absolute(selection)?,
            last: absolute(last)?,
            token_bytes: token_bytes.map(absolute).transpose()?,
            digest: String::new(),
        };
        snapshot.digest = digest(&snapshot.files())?;
        Ok(snapshot)
    }

    fn files(&self) -> Vec<&Path> {
        let mut files = vec![self.train.as_path(), &self.selection, &self.last];
        files.extend(self.token_bytes.as_deref());
        files
    }

    /// Whether the files still hold what they held.
    pub fn verify(&self) -> Result<(), EngineError> {
        if digest(&self.files())? == self.digest {
            return Ok(());
        }
        Err(EngineError::DataChanged { path: self.train.parent().unwrap_or(&self.train).to_path_buf() })
    }
}

fn digest(paths: &[&Path]) -> Result<String, EngineError> {
    let mut all = blake3::Hasher::new_derive_key("terrarium 2026 data snapshot v1");
    for path in paths {
        let failed = |e| EngineError::io("read", path, e);
        let file = File::open(path).map_err(failed)?;
        let mut one = blake3::Hasher::new();
        one.update_reader(file).map_err(failed)?;
        if one.count() == 0 {
            return Err(EngineError::EmptyData { path: path.to_path_buf() });
        }
        all.update(one.finalize().as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_is_noticed_and_an_empty_one_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        for name in ["a", "b", "c"] {
            std::fs::write(path(name), name).unwrap();
        }
        let data = DataSnapshot::take(&path("a"), &path("b"), &path("c"), None).unwrap();
        data.verify().unwrap();
        let with = DataSnapshot::take(&path("a"), &path("b"), &path("c"), Some(&path("a"))).unwrap();
        assert_ne!(with.digest, data.digest, "the lengths of tokens are data too");
        std::fs::write(path("b"), "B").unwrap();
        assert!(matches!(data.verify(), Err(EngineError::DataChanged { .. })));
        std::fs::write(path("b"), "").unwrap();
        assert!(matches!(data.verify(), Err(EngineError::EmptyData { .. })));
        std::fs::remove_file(path("b")).unwrap();
        assert!(matches!(data.verify(), Err(EngineError::Io { .. })));
    }
}
