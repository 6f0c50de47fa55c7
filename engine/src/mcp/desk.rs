//! What the tools do. Every call opens the run to read it, so that it sees
//! what the engine has recorded, whichever process that runs in.

use crate::candidate::Candidate;
use crate::diff::{LineKind, cleaned, unified};
use crate::error::EngineError;
use crate::evaluate::{EvaluationRecord, Split};
use crate::evolve_block;
use crate::gate::mean_and_sd;
use crate::ids::{BlobId, CandidateId};
use crate::ledger::{Decision, Event};
use crate::proposer::HistoryEntry;
use crate::proposer::agent::Reply;
use crate::proposer::change::Change;
use crate::proposer::model::prompt::profile;
use crate::proposer::person::INBOX;
use crate::run::{RunFolder, fresh_probe_secret};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terrarium_sandbox::{BuildError, Knobs, Sandbox, Source};

/// Longest text in an answer, in characters.
const MAX_TEXT: usize = 100_000;
/// Longest note and diagnostics.
const MAX_LINE: usize = 300;
const MAX_DIAGNOSTICS: usize = 4000;
/// Largest submission.
const MAX_SUBMISSION: usize = 2 << 20;

/// The run's desk for agents.
pub struct Desk {
    run: PathBuf,
    sandbox: Option<Arc<Sandbox>>,
}

/// A run as it is now.
struct Now {
    folder: RunFolder,
    candidates: Vec<Candidate>,
    records: HashMap<CandidateId, Vec<EvaluationRecord>>,
    decisions: HashMap<CandidateId, Decision>,
    incumbent: Option<CandidateId>,
    events: Vec<Event>,
}

fn told(error: &EngineError) -> String {
    format!("{error}; {}", error.hint())
}

fn short(text: &str, most: usize) -> String {
    cleaned(text).chars().take(most).collect()
}

impl Now {
    fn open(run: &Path) -> Result<Self, EngineError> {
        let folder = RunFolder::open_to_read(run)?;
        let archive = folder.archive();
        let mut records: HashMap<CandidateId, Vec<EvaluationRecord>> = HashMap::new();
        for record in archive.evaluations()?.into_iter().filter(|r| r.key.split != Split::Final) {
            records.entry(record.key.candidate.clone()).or_default().push(record);
        }
        let events = archive.events()?;
        let decided = |event: &Event| match event {
            Event::Decided(decision) => Some((decision.candidate.clone(), decision.clone())),
            _ => None,
        };
        let decisions = events.iter().filter_map(decided).collect();
        let incumbent = archive.incumbent()?;
        Ok(Self { candidates: archive.candidates()?, records, decisions, incumbent, events, folder })
    }

    fn is_over(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Final(_)))
    }

    /// Mean selection score; none if it failed on any seed.
    fn score(&self, id: &CandidateId) -> Option<f64> {
        let of_selection = self.records.get(id)?.iter().filter(|r| r.key.split == Split::Selection);
        let scores: Vec<f64> = of_selection.map(|r| r.result.score).collect::<Option<_>>()?;
        (!scores.is_empty()).then(|| mean_and_sd(&scores).0)
    }

    fn find(&self, id: &str) -> Result<&Candidate, String> {
        let mut matching = self.candidates.iter().filter(|c| id.len() >= 4 && c.id.as_str().starts_with(id));
        match (matching.next(), matching.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err("several candidates begin with that: give more digits".into()),
            _ => Err("there is no such candidate: `leaderboard` lists them".into()),
        }
    }

    /// The candidate as a proposer sees it.
    fn entry(&self, candidate: &Candidate) -> Result<HistoryEntry, String> {
        let records = self.records.get(&candidate.id).map_or(&[][..], Vec::as_slice);
        let failed = records.iter().find(|r| !r.result.outcome.is_finished());
        let shown = records.iter().find(|r| r.result.outcome.is_finished()).or(records.first());
        Ok(HistoryEntry {
            candidate: candidate.id.clone(),
            source: self.folder.source(candidate).map_err(|e| told(&e))?.into(),
            source_id: candidate.source.clone(),
            knobs: candidate.knobs.clone(),
            score: self.score(&candidate.id),
            seeds: records.len() as u32,
            outcome_code: failed.or(shown).map_or("not-evaluated", |r| r.result.outcome.code()).into(),
            accepted: false,
            diagnostics: failed.map(|r| format!("{}\n{}", r.result.outcome, r.result.outcome.hint())),
            origin: candidate.origin.clone(),
            parent: candidate.parent.clone(),
            record: shown.cloned().map(Arc::new),
        })
    }

    fn summary(&self, candidate: &Candidate) -> Value {
        let records = self.records.get(&candidate.id).map_or(0, Vec::len);
        let decision = self.decisions.get(&candidate.id);
        json!({
            "candidate": candidate.id,
            "parent": candidate.parent,
            "generation": candidate.generation,
            "proposer": short(&candidate.origin.proposer, 64),
            "note": short(&candidate.origin.note, MAX_LINE),
            "score": self.score(&candidate.id),
            "seeds": records,
            "best": self.incumbent.as_ref() == Some(&candidate.id),
            "ruling": decision.map(|d| d.ruling),
            "reason": decision.map(|d| short(&d.reason, MAX_LINE)),
            "gain": decision.and_then(|d| d.gain.as_ref()).map(|g| json!({ "mean": g.mean, "low": g.low, "high": g.high, "pairs": g.pairs })),
        })
    }

    /// A change applied to its parent: the parent, the child's source and the
    /// knobs that differ.
    fn applied(&self, change: Change) -> Result<(HistoryEntry, Arc<str>, Knobs), String> {
        let parent = match (&change.parent, &self.incumbent) {
            (Some(id), _) => self.find(id)?,
            (None, Some(id)) => self.find(id.as_str())?,
            (None, None) => return Err("the run has no candidate yet: try again in a moment".into()),
        };
        let entry = self.entry(parent)?;
        let space = entry.record.as_ref().map_or(Vec::new(), |r| r.result.knobs.clone());
        let change = Change { parent: Some(parent.id.to_string()), ..change };
        let draft = change.draft(&entry, &space)?;
        let source: Arc<str> = draft.source.map_or_else(|| entry.source.clone(), Into::into);
        if source != entry.source {
            evolve_block::check_edit(&entry.source, &source).map_err(|e| e.to_string())?;
        }
        Ok((entry, source, draft.knobs))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    candidate: String,
    #[serde(default)]
    against: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Board {
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    order: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    ticket: String,
    #[serde(default)]
    seconds: Option<u32>,
}

fn arguments<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| format!("the arguments do not fit: {e}"))
}

impl Desk {
    /// Of this run. Without a sandbox, drafts are checked but for compiling.
    pub fn new(run: &Path, sandbox: Option<Arc<Sandbox>>) -> Self {
        Self { run: run.to_path_buf(), sandbox }
    }

    /// Calls a tool. An error is told to the agent.
    pub fn call(&self, tool: &str, given: Value) -> Result<Value, String> {
        let open = || Now::open(&self.run).map_err(|e| told(&e));
        match tool {
            "read_task" => Self::read_task(&open()?),
            "leaderboard" => Self::leaderboard(&open()?, &arguments(given)?),
            "read_candidate" => Self::read_candidate(&open()?, &arguments(given)?),
            "diff" => Self::diff(&open()?, &arguments(given)?),
            "check_draft" => self.check(&open()?, arguments(given)?),
            "submit" => self.submit(&open()?, arguments(given)?),
            "wait" => self.wait(&arguments(given)?),
            _ => Err(format!("there is no tool `{tool}`")),
        }
    }

    fn read_task(now: &Now) -> Result<Value, String> {
        let task = now.folder.task();
        let best = match &now.incumbent {
            Some(id) => Some(now.find(id.as_str())?),
            None => None,
        };
        let source = best.map(|c| now.folder.source(c)).transpose().map_err(|e| told(&e))?;
        Ok(json!({
            "task": task.header.name,
            "title": task.header.title,
            "metric": task.header.metric.name,
            "direction": task.header.metric.direction,
            "guide": now.folder.guide(),
            "rules": "Only text between EVOLVE-BLOCK-START and EVOLVE-BLOCK-END may change. A change is kept only if it is better beyond noise over several seeds.",
            "finished": now.is_over(),
            "candidates": now.candidates.len(),
            "best": best.map(|c| now.summary(c)),
            "source": source.map(|s| s.chars().take(MAX_TEXT).collect::<String>()),
        }))
    }

    fn leaderboard(now: &Now, given: &Board) -> Result<Value, String> {
        let limit = given.limit.unwrap_or(20).clamp(1, 100) as usize;
        let mut all: Vec<&Candidate> = now.candidates.iter().rev().collect();
        if given.order.as_deref().unwrap_or("best") == "best" {
            let direction = now.folder.task().header.metric.direction;
            let badness = |c: &&Candidate| now.score(&c.id).map_or(f64::INFINITY, |s| direction.gain(0.0, s));
            all.sort_by(|a, b| badness(a).total_cmp(&badness(b)));
        }
        let rows: Vec<Value> = all.into_iter().take(limit).map(|c| now.summary(c)).collect();
        Ok(json!({ "candidates": now.candidates.len(), "rows": rows }))
    }

    fn read_candidate(now: &Now, given: &Which) -> Result<Value, String> {
        let candidate = now.find(&given.candidate)?;
        let entry = now.entry(candidate)?;
        let declared = entry.record.as_ref().map(|r| r.result.knobs.clone());
        let mut found = now.summary(candidate);
        found["source"] = entry.source.chars().take(MAX_TEXT).collect::<String>().into();
        found["knobs"] = json!(candidate.knobs);
        found["declared_knobs"] = json!(declared.unwrap_or_default());
        found["outcome"] = entry.outcome_code.clone().into();
        found["diagnostics"] = entry.diagnostics.as_deref().map(|d| short(d, MAX_DIAGNOSTICS)).into();
        found["profile"] = entry.record.as_ref().map(|r| profile(r)).into();
        Ok(found)
    }

    fn diff(now: &Now, given: &Which) -> Result<Value, String> {
        let candidate = now.find(&given.candidate)?;
        let against = match (&given.against, &candidate.parent) {
            (Some(id), _) => now.find(id)?,
            (None, Some(id)) => now.find(id.as_str())?,
            (None, None) => return Err("it is the baseline: give `against`".into()),
        };
        let text = |c: &Candidate| now.folder.source(c).map_err(|e| told(&e));
        let mut diff = String::new();
        for line in unified(&text(against)?, &text(candidate)?) {
            let sign = match line.kind {
                LineKind::Added => '+',
                LineKind::Removed => '-',
                _ => ' ',
            };
            let _ = writeln!(diff, "{sign}{}", line.text);
        }
        let diff: String = diff.chars().take(MAX_TEXT).collect();
        Ok(
            json!({ "candidate": candidate.id, "against": against.id, "diff": diff, "knobs": candidate.knobs, "knobs_against": against.knobs }),
        )
    }

    fn check(&self, now: &Now, change: Change) -> Result<Value, String> {
        let (parent, source, knobs) = now.applied(change)?;
        let mut found = json!({ "parent": parent.candidate, "knobs": knobs, "bytes": source.len(), "compiles": Value::Null });
        let Some(sandbox) = &self.sandbox else {
            return Ok(found);
        };
        match sandbox.compile(Source::Rust(&source), now.folder.task().header.world) {
            Ok(component) => {
                found["compiles"] = true.into();
                found["wasm_bytes"] = component.wasm_bytes.into();
            }
            Err(BuildError::Candidate(outcome)) => {
                found["compiles"] = false.into();
                let mut text = format!("{outcome}\n{}", outcome.hint());
                if let terrarium_sandbox::Outcome::CompileError { diagnostics } = &outcome {
                    diagnostics.iter().take(5).for_each(|d| text += &format!("\n{}", d.rendered));
                }
                found["diagnostics"] = short(&text, MAX_DIAGNOSTICS).into();
            }
            Err(BuildError::Host(error)) => return Err(format!("{error}; {}", error.hint())),
        }
        Ok(found)
    }

    fn submit(&self, now: &Now, change: Change) -> Result<Value, String> {
        if now.is_over() {
            return Err("the run is finished: start another".into());
        }
        if now.folder.task().search.proposers.get("person").is_none_or(|weight| *weight <= 0.0) {
            return Err(
                "this run takes no submissions: start it with --proposer person (and others, if wanted)"
                    .into(),
            );
        }
        let (parent, ..) = now.applied(change.clone())?;
        let change = Change { parent: Some(parent.candidate.to_string()), ..change };
        let text = serde_json::to_string(&change).map_err(|e| e.to_string())?;
        if text.len() > MAX_SUBMISSION {
            return Err(format!("the submission is longer than {MAX_SUBMISSION} bytes"));
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let nonce = fresh_probe_secret().map_err(|e| told(&e))?;
        let ticket = format!("{:015}-{:08x}", since.as_millis(), nonce as u32);
        let inbox = self.run.join(INBOX);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&inbox)?;
            let partial = inbox.join(format!(".{ticket}.partial"));
            std::fs::write(&partial, text)?;
            std::fs::rename(&partial, inbox.join(format!("{ticket}.json")))
        };
        write().map_err(|e| format!("cannot write into {}: {e}", inbox.display()))?;
        Ok(json!({ "ticket": ticket, "parent": parent.candidate }))
    }

    fn wait(&self, given: &Wait) -> Result<Value, String> {
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        if given.ticket.len() > 64 || !given.ticket.chars().all(plain) {
            return Err("that is no ticket of `submit`".into());
        }
        let end = Instant::now() + Duration::from_secs(u64::from(given.seconds.unwrap_or(30).min(60)));
        loop {
            let found = self.state_of(&given.ticket)?;
            if found["state"] != "waiting" && found["state"] != "evaluating" || Instant::now() >= end {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn state_of(&self, ticket: &str) -> Result<Value, String> {
        let now = Now::open(&self.run).map_err(|e| told(&e))?;
        let name = format!("{INBOX}/{ticket}.json");
        let mark = BlobId::of(name.as_bytes());
        let answers = now.folder.archive().answers().map_err(|e| told(&e))?;
        let answer = answers.into_iter().find_map(|(place, text)| {
            let reply: Reply = serde_json::from_str(&text).ok()?;
            (reply.prompt.as_ref() == Some(&mark)).then_some((place, reply))
        });
        let Some((place, reply)) = answer else {
            // It is moved away a moment before its answer is on disk.
            let taken = self.run.join(INBOX).join("taken").join(format!("{ticket}.json"));
            let there = self.run.join(&name).is_file() || taken.is_file();
            let state = match (there, now.is_over()) {
                (true, false) => "waiting",
                (true, true) => "finished-without-it",
                (false, _) => return Err("there is no such submission in this run".into()),
            };
            return Ok(json!({ "state": state }));
        };
        if reply.draft.is_none() {
            return Ok(json!({ "state": "refused", "reason": short(&reply.problem, MAX_LINE) }));
        }
        for event in &now.events {
            match event {
                Event::Unused { generation, index, reason, .. }
                    if (*generation, *index) == (place.generation, place.place) =>
                {
                    return Ok(json!({ "state": "refused", "reason": short(reason, MAX_LINE) }));
                }
                Event::Proposed { index, candidate, .. }
                    if (candidate.generation, *index) == (place.generation, place.place) =>
                {
                    let mut found = now.summary(candidate);
                    let decided = now.decisions.contains_key(&candidate.id);
                    found["state"] = if decided { "decided" } else { "evaluating" }.into();
                    let entry = now.entry(candidate)?;
                    found["outcome"] = entry.outcome_code.into();
                    found["diagnostics"] = entry.diagnostics.map(|d| short(&d, MAX_DIAGNOSTICS)).into();
                    return Ok(found);
                }
                _ => {}
            }
        }
        Ok(json!({ "state": "evaluating" }))
    }
}
