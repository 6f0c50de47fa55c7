//! `terrarium report`: a run as a table, and as a page.

use super::args::Report;
use super::{Ended, exit, say};
use crate::EngineError;
use crate::report::{ReportData, page, terminal};
use crate::run::RunFolder;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Shows and writes.
pub fn report(args: &Report) -> Ended {
    let folder = RunFolder::open_to_read(&args.run)?;
    show(&folder)?;
    let page = write(&folder, args.html.as_deref())?;
    say(format_args!("report  {}", page.display()));
    Ok(exit::OK)
}

/// The table, the winner's diff and the verdict, on standard output.
pub fn show(folder: &RunFolder) -> Result<(), EngineError> {
    let data = ReportData::of(folder)?;
    say(terminal::render(&data, terminal::Style::of_stdout()));
    Ok(())
}

/// Writes the page, `report.html` in the run's folder unless told otherwise;
/// returns its path. The page appears whole or not at all.
pub fn write(folder: &RunFolder, to: Option<&Path>) -> Result<PathBuf, EngineError> {
    let path = to.map_or_else(|| folder.path().join("report.html"), Path::to_path_buf);
    let text = page(&ReportData::of(folder)?);
    let failed = |e| EngineError::io("write", &path, e);
    if std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
        // A pipe or a device, such as /dev/stdout, is written, not replaced.
        std::fs::write(&path, text).map_err(failed)?;
        return Ok(path);
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".partial-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.persist(&path).map_err(|e| failed(e.error))?;
    Ok(path)
}
