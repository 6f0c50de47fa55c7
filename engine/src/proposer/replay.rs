//! `replay`: proposals from a file, so that a run with models can be repeated
//! without them.
//!
//! The file holds one JSON object a line, as `terrarium proposals RUN` prints
//! them: where in the run, what was proposed, and by whom. It is kept among
//! the run's blobs, so that a run does not depend on the file.

use super::agent::{Agent, Brief, Desk, Draft, Reply};
use crate::candidate::{Candidate, Origin};
use crate::error::EngineError;
use crate::ids::CandidateId;
use crate::ledger::Event;
use crate::run::RunFolder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use terrarium_sandbox::Knobs;

/// Most proposals in a file.
const MOST: usize = 1_000_000;

/// One recorded proposal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Generation, from 1.
    pub generation: u32,
    /// Place in it, from 0.
    pub place: u32,
    /// The source; none keeps the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// All knobs of the candidate.
    #[serde(default)]
    pub knobs: Knobs,
    /// What it was made from; the search's own choice if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<CandidateId>,
    /// The other parent of a crossover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_parent: Option<CandidateId>,
    /// Who made it.
    pub origin: Origin,
}

/// The proposer `replay`.
#[derive(Debug)]
pub struct Replay {
    recorded: BTreeMap<(u32, u32), Recorded>,
}

impl Replay {
    /// From the text of a file; `name` is for messages.
    pub fn parse(text: &str, name: &str) -> Result<Self, EngineError> {
        let mut recorded = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let bad = |what: String| EngineError::Host {
                message: format!("{name}, line {line}: {what}"),
                hint: "`terrarium proposals RUN` prints such lines".into(),
            };
            let one: Recorded = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
            if recorded.len() >= MOST {
                return Err(bad(format!("more than {MOST} proposals")));
            }
            if recorded.insert((one.generation, one.place), one).is_some() {
                return Err(bad("there is another proposal for this place".into()));
            }
        }
        Ok(Self { recorded })
    }

    /// The last generation of the file.
    pub fn last_generation(&self) -> u32 {
        self.recorded.keys().next_back().map_or(0, |(generation, _)| *generation)
    }
}

impl Agent for Replay {
    fn name(&self) -> &str {
        "replay"
    }

    fn comes_first(&self) -> bool {
        true
    }

    fn ask(&self, brief: &Brief<'_>, _desk: &dyn Desk) -> Result<Option<Reply>, EngineError> {
        let Some(one) = self.recorded.get(&(brief.generation, brief.place)) else {
            return Ok(None);
        };
        let draft = Draft {
            source: one.source.clone(),
            knobs: one.knobs.clone(),
            parent: one.parent.clone(),
            second_parent: one.second_parent.clone(),
            origin: Some(one.origin.clone()),
            operator: one.origin.operator.clone(),
            note: one.origin.note.clone(),
        };
        Ok(Some(Reply { draft: Some(draft), model: "replay".into(), ..Reply::default() }))
    }
}

/// The proposals of a run, for a file to be replayed.
pub fn of_run(folder: &RunFolder) -> Result<Vec<Recorded>, EngineError> {
    let mut sources = std::collections::HashMap::new();
    let mut found = Vec::new();
    for event in folder.archive().events()? {
        let Event::Proposed { index, candidate, .. } = event else {
            continue;
        };
        let Candidate { id, source, knobs, parent, second_parent, origin, generation } = candidate;
        let same = parent.as_ref().and_then(|p| sources.get(p)) == Some(&source);
        let text = if same || generation == 0 { None } else { Some(folder.blobs().text(&source)?) };
        sources.insert(id, source);
        if generation > 0 {
            let place = index;
            found.push(Recorded { generation, place, source: text, knobs, parent, second_parent, origin });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lines_are_named() {
        let line =
            r#"{"generation":1,"place":0,"knobs":{},"origin":{"proposer":"p","operator":"","note":""}}"#;
        assert_eq!(Replay::parse(&format!("{line}\n\n"), "f").unwrap().last_generation(), 1);
        for (text, what) in [(format!("{line}\n{line}"), "line 2"), ("{}".into(), "line 1")] {
            let error = Replay::parse(&text, "f").unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
