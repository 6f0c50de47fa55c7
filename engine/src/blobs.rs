//! Content-addressed files: `blobs/<BLAKE3>`.
//!
//! A blob is written to a temporary name, synchronised, renamed, and its
//! folder synchronised; so a name that exists holds all its bytes, whatever
//! was killed in between. Every read checks the bytes against the name.

use crate::error::EngineError;
use crate::ids::BlobId;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The blobs of one run.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Opens the folder, creating it if needed.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        std::fs::create_dir_all(folder).map_err(|e| EngineError::io("create", folder, e))?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Where a blob lies, whether it is there or not.
    pub fn path(&self, id: &BlobId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    /// Stores bytes and returns their address. When this returns, they
    /// survive a loss of power. Storing again what is there costs one read.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobId, EngineError> {
        let id = BlobId::of(bytes);
        if self.get(&id).is_ok() {
            return Ok(id);
        }
        let path = self.path(&id);
        let failed = |e| EngineError::io("write", &path, e);
        let mut file =
            tempfile::Builder::new().prefix(".partial-").tempfile_in(&self.folder).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        sync_folder(&self.folder)?;
        Ok(id)
    }

    /// Reads and verifies a blob.
    pub fn get(&self, id: &BlobId) -> Result<Vec<u8>, EngineError> {
        let path = self.path(id);
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => EngineError::BlobMissing { id: id.clone(), path: path.clone() },
            _ => EngineError::io("read", &path, error),
        })?;
        let found = BlobId::of(&bytes);
        if found == *id { Ok(bytes) } else { Err(EngineError::BlobCorrupt { id: id.clone(), path, found }) }
    }

    /// Reads a blob that is text.
    pub fn text(&self, id: &BlobId) -> Result<String, EngineError> {
        // Sources were text when they were stored and the hash still fits, so
        // nothing is replaced here in practice.
        self.get(id).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Removes what a killed process left half written.
    pub fn sweep(&self) -> Result<(), EngineError> {
        let failed = |e| EngineError::io("read", &self.folder, e);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(".partial-") {
                std::fs::remove_file(entry.path())
                    .map_err(|e| EngineError::io("remove", &entry.path(), e))?;
            }
        }
        Ok(())
    }
}

/// Makes a rename in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), EngineError> {
    std::fs::File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|e| EngineError::io("synchronise", folder, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_got_and_what_is_altered_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let id = blobs.put(b"source text").unwrap();
        assert_eq!(blobs.put(b"source text").unwrap(), id);
        assert_eq!(blobs.get(&id).unwrap(), b"source text");
        std::fs::write(blobs.path(&id), b"source tex!").unwrap();
        let error = blobs.get(&id).unwrap_err();
        assert!(matches!(&error, EngineError::BlobCorrupt { id: named, .. } if *named == id), "{error}");
        assert!(error.to_string().contains(id.short()));
        // Storing it again repairs it.
        blobs.put(b"source text").unwrap();
        assert_eq!(blobs.text(&id).unwrap(), "source text");
        let other = BlobId::of(b"never stored");
        assert!(matches!(blobs.get(&other), Err(EngineError::BlobMissing { .. })));
    }

    #[test]
    fn leftovers_of_a_killed_write_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let id = blobs.put(b"kept").unwrap();
        std::fs::write(folder.path().join(".partial-xyz"), b"half").unwrap();
        blobs.sweep().unwrap();
        assert!(!folder.path().join(".partial-xyz").exists());
        assert_eq!(blobs.get(&id).unwrap(), b"kept");
    }
}
