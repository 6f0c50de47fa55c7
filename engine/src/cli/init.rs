//! `terrarium init`: a task of one's own, from a template.

use super::args::Init;
use super::failure::Failure;
use super::{Ended, exit, say};
use crate::EngineError;
use crate::task;
use std::path::Path;

/// Copies a template into a new folder and renames the task.
pub fn init(args: &Init) -> Ended {
    let root = task::templates_root();
    if !task::templates(&root).contains(&args.template) {
        return Err(Failure::usage(
            format!("there is no template `{}`", args.template),
            format!("the templates are: {}", task::templates(&root).join(", ")),
        ));
    }
    let name = &args.name;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(Failure::usage(
            format!("`{name}` is not a task name"),
            "use lower-case letters, digits and `-`, at most 64",
        ));
    }
    let folder = Path::new(name);
    if folder.exists() {
        return Err(Failure::new(
            format!("{name} exists already"),
            "choose another name; nothing was changed",
        ));
    }
    copy(&root.join(&args.template), folder)?;
    let file = folder.join("task.toml");
    let text = task::read_text(&file)?;
    let renamed = text.replacen(&format!("name = \"{}\"", args.template), &format!("name = \"{name}\""), 1);
    std::fs::write(&file, renamed).map_err(|e| EngineError::io("write", &file, e))?;
    let loaded = task::load(&format!("./{name}"), &root)?;
    say(format_args!("made ./{name} from the template `{}`", args.template));
    eprintln!("  edit   ./{name}/{}", loaded.task.header.candidate.display());
    eprintln!("  check  terrarium check ./{name}");
    eprintln!("  score  terrarium eval ./{name}");
    eprintln!("  evolve terrarium run ./{name}");
    Ok(exit::OK)
}

fn copy(from: &Path, to: &Path) -> Result<(), EngineError> {
    std::fs::create_dir_all(to).map_err(|e| EngineError::io("create", to, e))?;
    let entries = std::fs::read_dir(from).map_err(|e| EngineError::io("read", from, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| EngineError::io("read", from, e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).map_err(|e| EngineError::io("copy", &source, e))?;
        }
    }
    Ok(())
}
