//! What the tools do. Every call first takes in what the engine has recorded
//! since the last, whichever process that runs in.

use super::view::{Submission, View};
use crate::candidate::Candidate;
use crate::diff::{LineKind, cleaned, unified};
use crate::error::EngineError;
use crate::evolve_block;
use crate::ids::CandidateId;
use crate::proposer::HistoryEntry;
use crate::proposer::change::Change;
use crate::proposer::model::prompt::profile;
use crate::proposer::person::INBOX;
use crate::run::fresh_probe_secret;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
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
    view: Mutex<Option<View>>,
}

fn told(error: EngineError) -> String {
    format!("{error}; {}", error.hint())
}

fn short(text: &str, most: usize) -> String {
    cleaned(text).chars().take(most).collect()
}

impl View {
    fn find(&self, id: &str) -> Result<Candidate, String> {
        let digits = id.len() >= 4 && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let found = match digits {
            true => self.folder().archive().beginning_with(&id.to_ascii_lowercase()).map_err(told)?,
            false => Vec::new(),
        };
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err("several candidates begin with that: give more digits".into()),
            _ => Err("there is no such candidate: `leaderboard` lists them".into()),
        }
    }

    fn known(&self, id: &CandidateId) -> Result<Candidate, String> {
        self.find(id.as_str())
    }

    fn summary(&self, candidate: &Candidate) -> Result<Value, String> {
        let decision = self.decision(&candidate.id).map_err(told)?;
        let gain = decision.as_ref().and_then(|d| d.gain.as_ref());
        Ok(json!({
            "candidate": candidate.id,
            "parent": candidate.parent,
            "generation": candidate.generation,
            "proposer": short(&candidate.origin.proposer, 64),
            "note": short(&candidate.origin.note, MAX_LINE),
            "score": self.score(&candidate.id),
            "seeds": self.evaluations(&candidate.id),
            "best": self.incumbent() == Some(&candidate.id),
            "ruling": decision.as_ref().map(|d| d.ruling),
            "reason": decision.as_ref().map(|d| short(&d.reason, MAX_LINE)),
            "gain": gain.map(|g| json!({ "mean": g.mean, "low": g.low, "high": g.high, "pairs": g.pairs })),
        }))
    }

    /// A change applied to its parent: the parent, the child's source and the
    /// knobs that differ.
    fn applied(&self, change: Change) -> Result<(HistoryEntry, Arc<str>, Knobs), String> {
        let parent = match (&change.parent, self.incumbent()) {
            (Some(id), _) => self.find(id)?,
            (None, Some(id)) => self.known(id)?,
            (None, None) => return Err("the run has no candidate yet: try again in a moment".into()),
        };
        let entry = self.entry(&parent).map_err(told)?;
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
    pub fn new(run: impl Into<PathBuf>, sandbox: Option<Arc<Sandbox>>) -> Self {
        Self { run: run.into(), sandbox, view: Mutex::new(None) }
    }

    /// Looks at the run as it is now.
    fn now<T>(&self, look: impl FnOnce(&View) -> Result<T, String>) -> Result<T, String> {
        let mut kept = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = match kept.take() {
            Some(view) => view,
            None => View::open(&self.run).map_err(told)?,
        };
        // If this fails, the next call begins anew.
        view.refresh().map_err(told)?;
        look(kept.insert(view))
    }

    /// Calls a tool. An error is told to the agent.
    pub fn call(&self, tool: &str, given: Value) -> Result<Value, String> {
        match tool {
            "read_task" => self.now(Self::read_task),
            "leaderboard" => {
                let given = arguments(given)?;
                self.now(|view| Self::leaderboard(view, &given))
            }
            "read_candidate" => {
                let given = arguments(given)?;
                self.now(|view| Self::read_candidate(view, &given))
            }
            "diff" => {
                let given = arguments(given)?;
                self.now(|view| Self::diff(view, &given))
            }
            "check_draft" => self.check(arguments(given)?),
            "submit" => self.submit(arguments(given)?),
            "wait" => self.wait(&arguments(given)?),
            _ => Err(format!("there is no tool `{tool}`")),
        }
    }

    fn read_task(now: &View) -> Result<Value, String> {
        let task = now.folder().task();
        let best = now.incumbent().map(|id| now.known(id)).transpose()?;
        let source = best.as_ref().map(|c| now.folder().source(c)).transpose().map_err(told)?;
        Ok(json!({
            "task": task.header.name,
            "title": task.header.title,
            "metric": task.header.metric.name,
            "direction": task.header.metric.direction,
            "guide": now.folder().guide(),
            "rules": "Only text between EVOLVE-BLOCK-START and EVOLVE-BLOCK-END may change. A change is kept only if it is better beyond noise over several seeds.",
            "finished": now.is_over(),
            "candidates": now.count(),
            "best": best.map(|c| now.summary(&c)).transpose()?,
            "source": source.map(|s| s.chars().take(MAX_TEXT).collect::<String>()),
        }))
    }

    fn leaderboard(now: &View, given: &Board) -> Result<Value, String> {
        let limit = given.limit.unwrap_or(20).clamp(1, 100) as usize;
        let ids = match given.order.as_deref() {
            None | Some("best") => now.best(limit),
            Some("latest") => now.latest(limit),
            Some(_) => return Err("`order` is `best` or `latest`".into()),
        };
        let rows: Vec<Value> =
            ids.iter().map(|id| now.summary(&now.known(id)?)).collect::<Result<_, String>>()?;
        Ok(json!({ "candidates": now.count(), "rows": rows }))
    }

    fn read_candidate(now: &View, given: &Which) -> Result<Value, String> {
        let candidate = now.find(&given.candidate)?;
        let entry = now.entry(&candidate).map_err(told)?;
        let declared = entry.record.as_ref().map(|r| r.result.knobs.clone());
        let mut found = now.summary(&candidate)?;
        found["source"] = entry.source.chars().take(MAX_TEXT).collect::<String>().into();
        found["knobs"] = json!(candidate.knobs);
        found["declared_knobs"] = json!(declared.unwrap_or_default());
        found["outcome"] = entry.outcome_code.clone().into();
        found["diagnostics"] = entry.diagnostics.as_deref().map(|d| short(d, MAX_DIAGNOSTICS)).into();
        found["profile"] = entry.record.as_ref().map(|r| profile(r)).into();
        Ok(found)
    }

    fn diff(now: &View, given: &Which) -> Result<Value, String> {
        let candidate = now.find(&given.candidate)?;
        let against = match (&given.against, &candidate.parent) {
            (Some(id), _) => now.find(id)?,
            (None, Some(id)) => now.known(id)?,
            (None, None) => return Err("it is the baseline: give `against`".into()),
        };
        let text = |c: &Candidate| now.folder().source(c).map_err(told);
        let mut diff = String::new();
        for line in unified(&text(&against)?, &text(&candidate)?) {
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

    fn check(&self, change: Change) -> Result<Value, String> {
        let (parent, source, knobs, world) = self.now(|now| {
            let (parent, source, knobs) = now.applied(change)?;
            Ok((parent, source, knobs, now.folder().task().header.world))
        })?;
        let mut found = json!({ "parent": parent.candidate, "knobs": knobs, "bytes": source.len(), "compiles": Value::Null });
        let Some(sandbox) = &self.sandbox else {
            return Ok(found);
        };
        // Nobody waits for the compiler but the one who asked.
        match sandbox.compile(Source::Rust(&source), world) {
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

    fn submit(&self, change: Change) -> Result<Value, String> {
        let parent = self.now(|now| {
            if now.is_over() {
                return Err("the run is finished: start another".into());
            }
            if now.folder().task().search.proposers.get("person").is_none_or(|weight| *weight <= 0.0) {
                return Err(
                    "this run takes no submissions: start it with --proposer person (and others, if wanted)"
                        .into(),
                );
            }
            Ok(now.applied(change.clone())?.0)
        })?;
        let change = Change { parent: Some(parent.candidate.to_string()), ..change };
        let text = serde_json::to_string(&change).map_err(|e| e.to_string())?;
        if text.len() > MAX_SUBMISSION {
            return Err(format!("the submission is longer than {MAX_SUBMISSION} bytes"));
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let nonce = fresh_probe_secret().map_err(told)?;
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
            let found = self.now(|now| self.state_of(now, &given.ticket))?;
            if found["state"] != "waiting" && found["state"] != "evaluating" || Instant::now() >= end {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn state_of(&self, now: &View, ticket: &str) -> Result<Value, String> {
        let name = format!("{INBOX}/{ticket}.json");
        let refused = |reason: &str| Ok(json!({ "state": "refused", "reason": short(reason, MAX_LINE) }));
        let id = match now.submission(&name) {
            Some(Submission::Unreadable(reason) | Submission::Unused(reason)) => return refused(&reason),
            Some(Submission::UnderWay) => return Ok(json!({ "state": "evaluating" })),
            Some(Submission::Is(id)) => id,
            None => {
                // It is moved away a moment before its answer is on disk.
                let taken = self.run.join(INBOX).join("taken").join(format!("{ticket}.json"));
                let there = self.run.join(&name).is_file() || taken.is_file();
                let state = match (there, now.is_over()) {
                    (true, false) => "waiting",
                    (true, true) => "finished-without-it",
                    (false, _) => return Err("there is no such submission in this run".into()),
                };
                return Ok(json!({ "state": state }));
            }
        };
        let candidate = now.known(&id)?;
        let mut found = now.summary(&candidate)?;
        found["state"] = if found["ruling"].is_null() { "evaluating" } else { "decided" }.into();
        let entry = now.entry(&candidate).map_err(told)?;
        found["outcome"] = entry.outcome_code.into();
        found["diagnostics"] = entry.diagnostics.map(|d| short(&d, MAX_DIAGNOSTICS)).into();
        Ok(found)
    }
}
