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
    let Some(template) = task::template_file(&root, &args.template) else {
        return Err(Failure::usage(
            format!("there is no template `{}`", args.template),
            format!("the templates are: {}", task::templates(&root).join(", ")),
        ));
    };
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
    copy(template.parent().unwrap_or(&root), folder)?;
    let file = folder.join("task.toml");
    one_problem(&template, folder)?;
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

/// Of the problems that share a template's folder, the one that was asked for
/// becomes `task.toml`; the others go.
fn one_problem(template: &Path, folder: &Path) -> Result<(), EngineError> {
    let chosen = template.file_name().unwrap_or_default();
    let entries = std::fs::read_dir(folder).map_err(|e| EngineError::io("read", folder, e))?;
    for entry in entries {
        let path = entry.map_err(|e| EngineError::io("read", folder, e))?.path();
        let is_problem = path.extension().is_some_and(|e| e == "toml") && path.is_file();
        if is_problem && path.file_name() != Some(chosen) {
            std::fs::remove_file(&path).map_err(|e| EngineError::io("remove", &path, e))?;
        }
    }
    let (from, to) = (folder.join(chosen), folder.join("task.toml"));
    std::fs::rename(&from, &to).map_err(|e| EngineError::io("rename", &from, e))
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
