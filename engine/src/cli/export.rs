//! `terrarium export`: a run's tables as files.

use super::args::Export;
use super::{Ended, exit, say};
use crate::export::{Format, export as written};
use crate::run::RunFolder;

/// Writes the tables, and prints the files.
pub fn export(args: &Export) -> Ended {
    let run = RunFolder::open_to_read(&args.run)?;
    let folder = args.out.clone().unwrap_or_else(|| args.run.join("export"));
    let asked = |format: &Format| args.format.is_empty() || args.format.iter().any(|n| n == format.name());
    let formats: Vec<Format> = Format::ALL.into_iter().filter(asked).collect();
    for path in written(&run, &folder, &formats)? {
        say(path.display());
    }
    Ok(exit::OK)
}
