//! Compiled components on disk, by content.
//!
//! A file `<key>.art` is the BLAKE3 hash of its payload (32 bytes), then the
//! payload: one [`Artifact`] in MessagePack. The key covers everything that
//! decides the artifact. Machine code is run from here, so the folder belongs
//! to one user (mode 0700) and a file whose hash does not match is compiled
//! again, never used.

use crate::codegen::Artifact;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The folder.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let meta = fs::metadata(&dir)?;
        if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} must belong to this user and be writable by nobody else", dir.display()),
            ));
        }
        Ok(Self { dir })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.art"))
    }

    /// The artifact, if it is there and whole.
    pub fn load(&self, key: &str) -> Option<Artifact> {
        let path = self.path(key);
        let bytes = fs::read(&path).ok()?;
        let artifact = bytes.split_at_checked(32).and_then(|(hash, payload)| {
            (blake3::hash(payload) == *<&[u8; 32]>::try_from(hash).ok()?)
                .then(|| rmp_serde::from_slice(payload).ok())
                .flatten()
        });
        if artifact.is_none() {
            // Damaged: out of the way, so that it is compiled again.
            let _ = fs::remove_file(path);
        }
        artifact
    }

    /// Stores atomically: a reader sees the whole file or none.
    pub fn store(&self, key: &str, artifact: &Artifact) -> io::Result<()> {
        let payload = rmp_serde::to_vec_named(artifact).map_err(io::Error::other)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(blake3::hash(&payload).as_bytes())?;
        file.write_all(&payload)?;
        file.persist(self.path(key)).map_err(|e| e.error)?;
        Ok(())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;

    #[test]
    fn an_artifact_comes_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("components")).unwrap();
        let artifact = Artifact {
            world: World::Function,
            fuel_traps: vec![3, 4],
            depth_traps: vec![5],
            metering: crate::machine::Metering::Module,
            wasi: false,
            starts: false,
            wasm_bytes: 9,
            memory_bytes: 65_536,
            table_elements: 1,
            code: vec![200; 1000],
        };
        cache.store("k", &artifact).unwrap();
        assert_eq!(cache.load("k").unwrap().code, artifact.code);

        let path = cache.dir().join("k.art");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(cache.load("k").is_none());
        assert!(!path.exists());
        fs::write(&path, b"short").unwrap();
        assert!(cache.load("k").is_none());
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Cache::open(dir.path().to_owned()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
