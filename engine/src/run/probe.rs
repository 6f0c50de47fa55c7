//! The secret that decides where honesty probes go.
//!
//! It is not derived from the run's seed, which a candidate could guess, and
//! it is not part of the frozen configuration: two runs with one seed have
//! equal ledgers though their probes lie elsewhere.

use crate::blobs::sync_folder;
use crate::error::EngineError;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// Its file in the run's folder.
pub const FILE: &str = "probe.key";

/// A secret from the operating system.
pub fn fresh_probe_secret() -> Result<u64, EngineError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| EngineError::io("read", source, e))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes a fresh secret that only the owner may read.
pub fn create(folder: &Path) -> Result<(), EngineError> {
    let path = folder.join(FILE);
    let failed = |e| EngineError::io("write", &path, e);
    let secret = fresh_probe_secret()?;
    let mut file = tempfile::Builder::new().prefix(".partial-").tempfile_in(folder).map_err(failed)?;
    writeln!(file, "{secret:016x}").map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|e| failed(e.error))?;
    sync_folder(folder)
}

/// The run's secret.
pub fn read(folder: &Path) -> Result<u64, EngineError> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| EngineError::io("read", &path, e))?;
    u64::from_str_radix(text.trim(), 16).map_err(|e| EngineError::BadRunConfig {
        path,
        what: format!("it is not 16 hexadecimal digits: {e}"),
    })
}
