//! `person`: proposals that are put into a folder while the run goes on.
//!
//! The folder is `inbox/` in the run's folder. A file `NAME.rs` is a whole
//! source; `NAME.json` is a change (see [`super::change::Change`]). A file is
//! taken once it is complete: write it under another name (a leading `.`, or
//! ending in `.partial`) and rename it. What was taken moves to
//! `inbox/taken/`; `terrarium mcp` submits through the same folder.

use super::agent::{Agent, Brief, Desk, Reply};
use super::change::Change;
use crate::error::EngineError;
use crate::task::read_text;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The folder's name within a run's folder.
pub const INBOX: &str = "inbox";

/// The proposer `person`.
#[derive(Debug)]
pub struct Person {
    inbox: PathBuf,
    taking: Mutex<()>,
}

impl Person {
    /// Watches `inbox/` of this run, which is made if it is not there.
    pub fn new(run: &Path) -> Result<Self, EngineError> {
        let inbox = run.join(INBOX);
        let taken = inbox.join("taken");
        std::fs::create_dir_all(&taken).map_err(|e| EngineError::io("create", &taken, e))?;
        Ok(Self { inbox, taking: Mutex::new(()) })
    }

    /// The first file by name that is complete.
    fn next(&self) -> Result<Option<PathBuf>, EngineError> {
        let failed = |e| EngineError::io("read", &self.inbox, e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.inbox).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            let known = path.extension().is_some_and(|e| e == "rs" || e == "json");
            // Not through a link: the folder may be open to others.
            if known && !hidden && std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file()) {
                names.push(path);
            }
        }
        Ok(names.into_iter().min())
    }
}

impl Agent for Person {
    fn name(&self) -> &str {
        "person"
    }

    fn comes_first(&self) -> bool {
        true
    }

    fn may_come(&self) -> bool {
        true
    }

    fn ask(&self, brief: &Brief<'_>, desk: &dyn Desk) -> Result<Option<Reply>, EngineError> {
        let _one_at_a_time = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = self.next()? else {
            return Ok(None);
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = read_text(&path).map_err(|e| e.to_string());
        let mut reply = Reply { model: "person".into(), ..Reply::default() };
        let change = read.and_then(|text| match path.extension().is_some_and(|e| e == "rs") {
            true => Ok(Change { source: Some(text), note: format!("from {name}"), ..Change::default() }),
            false => Change::parse(&text),
        });
        // A change may name another parent than the one that was drawn.
        let draft = change.and_then(|change| {
            let named = change.parent.clone();
            let parent = match &named {
                None => brief.parent,
                Some(id) => brief
                    .history
                    .entries
                    .iter()
                    .find(|entry| entry.candidate.as_str() == id)
                    .ok_or(format!("its parent {id} is not in this run"))?,
            };
            let space = parent.record.as_ref().map_or(brief.history.knob_space, |r| &r.result.knobs);
            change.draft(parent, space)
        });
        match draft {
            Ok(mut draft) => {
                draft.parent.get_or_insert_with(|| brief.parent.candidate.clone());
                reply.draft = Some(draft);
            }
            Err(what) => reply.problem = format!("{name}: {what}"),
        }
        let taken = self.inbox.join("taken").join(&name);
        std::fs::rename(&path, &taken).map_err(|e| EngineError::io("move", &path, e))?;
        reply.prompt = Some(desk.keep(&format!("inbox/{name}"))?);
        Ok(Some(reply))
    }
}
