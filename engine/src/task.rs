//! What is to be improved: `task.toml`, its candidate's source, its budgets.
//!
//! A task is a folder with `task.toml`, the candidate's source file and
//! (optionally) `TASK.md`, which tells a proposer what is asked.

mod error;
mod search;

pub use error::{InvalidTask, TaskError};
pub use search::SearchConfig;

use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use terrarium_sandbox::{HeldOut, Limits, World};

/// Which scores are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Smaller is better.
    Minimize,
    /// Larger is better.
    Maximize,
}

impl Direction {
    /// How much better `new` is than `old`: positive is better.
    pub fn gain(self, new: f64, old: f64) -> f64 {
        match self {
            Self::Minimize => old - new,
            Self::Maximize => new - old,
        }
    }

    /// Whether `new` is strictly better than `old`.
    pub fn better(self, new: f64, old: f64) -> bool {
        self.gain(new, old) > 0.0
    }
}

/// The number that is improved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Such as `val_bpb`.
    pub name: String,
    /// Which way is better.
    pub direction: Direction,
}

/// `[task]`: what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Short name: lower-case letters, digits and `-`.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// The interface that a candidate is built for.
    pub world: World,
    /// What is improved.
    pub metric: Metric,
    /// The candidate's source file, relative to the task's folder.
    pub candidate: PathBuf,
}

/// `[evaluation]`: how a trained model is scored (world `trainer`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutConfig {
    /// Tokens per window.
    pub context: u32,
    /// Windows per `forward` call.
    pub rows: u32,
    /// Windows scored, spread evenly over the held-out shard.
    pub windows: u32,
}

impl From<&HeldOutConfig> for HeldOut {
    fn from(config: &HeldOutConfig) -> Self {
        Self { context: config.context, rows: config.rows, windows: config.windows }
    }
}

/// `[evaluator]`: how the bytes of a `call` are scored (world `function`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "builtin", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EvaluatorConfig {
    /// `n` disjoint circles in the unit square; the score is the sum of radii.
    Circles {
        /// How many circles.
        n: u32,
    },
}

/// `[data]`: what a trainer learns from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataConfig {
    /// Text files as bytes, split by crate or folder.
    Corpus,
}

/// A validated `task.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// `[task]`.
    #[serde(rename = "task")]
    pub header: Header,
    /// `[budget]`: hard limits of one evaluation.
    #[serde(default)]
    pub budget: Limits,
    /// `[evaluation]`: present exactly for world `trainer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<HeldOutConfig>,
    /// `[evaluator]`: present exactly for world `function`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluator: Option<EvaluatorConfig>,
    /// `[data]`: present exactly for world `trainer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataConfig>,
    /// `[search]`.
    #[serde(default)]
    pub search: SearchConfig,
}

/// A task as it was found on disk.
#[derive(Clone, Debug)]
pub struct LoadedTask {
    /// Its folder.
    pub folder: PathBuf,
    /// Its configuration.
    pub task: Task,
    /// The candidate's source text: the baseline.
    pub source: String,
    /// `TASK.md`, if there is one.
    pub guide: Option<String>,
}

/// Largest `task.toml`, `TASK.md` or candidate source, in bytes.
pub const MAX_TEXT_BYTES: u64 = 1 << 20;

impl Task {
    /// Parses and validates; `origin` is the file's name in messages.
    pub fn parse(text: &str, origin: &str) -> Result<Self, TaskError> {
        let task: Self = toml::from_str(text).map_err(|e| TaskError::syntax(text, origin, &e))?;
        match task.fault() {
            None => Ok(task),
            Some((path, what, hint)) => Err(TaskError::value(text, origin, path, what, hint)),
        }
    }

    /// Checks a task that was made or changed in memory.
    pub fn check(&self) -> Result<(), TaskError> {
        match self.fault() {
            None => Ok(()),
            Some((path, what, hint)) => {
                let text = toml::to_string(self).unwrap_or_default();
                Err(TaskError::value(&text, "task", path, what, hint))
            }
        }
    }

    /// The first thing that is wrong: where, what, and what to try.
    fn fault(&self) -> Option<(Vec<&'static str>, String, String)> {
        let header = &self.header;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if header.name.is_empty() || header.name.len() > 64 || !header.name.chars().all(plain) {
            let what = format!("`{}` is not a task name", header.name);
            return fault(&["task", "name"], what, "use lower-case letters, digits and `-`, at most 64");
        }
        if header.metric.name.is_empty() || header.metric.name.len() > 64 {
            let what = "the metric needs a name of 1 to 64 characters".to_owned();
            return fault(
                &["task", "metric"],
                what,
                "for example metric = { name = \"val_bpb\", direction = \"minimize\" }",
            );
        }
        if !stays_inside(&header.candidate) {
            let what = format!("`{}` does not stay inside the task's folder", header.candidate.display());
            return fault(&["task", "candidate"], what, "give a path relative to task.toml, without `..`");
        }
        if let Err(error) = self.budget.check() {
            let name = match &error {
                terrarium_sandbox::LimitError::Range { name, .. } => name,
                terrarium_sandbox::LimitError::Unknown { .. } => "",
            };
            return fault(&["budget", name], error.to_string(), "leave the line out to get the default");
        }
        if let Some(found) = self.world_fault() {
            return Some(found);
        }
        self.search.fault().map(|(field, what, hint)| (vec!["search", field], what, hint.to_owned()))
    }

    fn world_fault(&self) -> Option<(Vec<&'static str>, String, String)> {
        let world = self.header.world.name();
        let (trainer, sections) = match self.header.world {
            World::Trainer => (true, "[evaluation] and [data]"),
            World::Function | World::Command => (false, "[evaluator]"),
        };
        for (name, present, wanted) in [
            ("evaluation", self.evaluation.is_some(), trainer),
            ("data", self.data.is_some(), trainer),
            ("evaluator", self.evaluator.is_some(), !trainer),
        ] {
            if present != wanted {
                let verb = if wanted { "needs" } else { "has no use for" };
                let what = format!("world `{world}` {verb} a section [{name}]");
                return fault(
                    &[if present { name } else { "task" }],
                    what,
                    &format!("a `{world}` task is scored by {sections}"),
                );
            }
        }
        if let Some(scoring) = &self.evaluation {
            for (name, value, high) in [
                ("context", scoring.context, 1 << 20),
                ("rows", scoring.rows, 1 << 16),
                ("windows", scoring.windows, 1 << 24),
            ] {
                if !(1..=high).contains(&value) {
                    let what = format!("{name} = {value} is out of range: 1..={high}");
                    return fault(
                        &["evaluation", name],
                        what,
                        "at least one token and one window are scored",
                    );
                }
            }
        }
        if let Some(EvaluatorConfig::Circles { n }) = self.evaluator
            && !(1..=crate::scoring::circles::MAX_CIRCLES).contains(&n)
        {
            let what = format!("n = {n} is out of range: 1..={}", crate::scoring::circles::MAX_CIRCLES);
            return fault(&["evaluator", "n"], what, "26 and 32 have published records");
        }
        None
    }
}

fn fault(path: &[&'static str], what: String, hint: &str) -> Option<(Vec<&'static str>, String, String)> {
    Some((path.to_vec(), what, hint.to_owned()))
}

fn stays_inside(path: &Path) -> bool {
    !path.as_os_str().is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Where the task templates lie: `$TERRARIUM_TEMPLATES`, else the folder of
/// this build's source tree.
pub fn templates_root() -> PathBuf {
    match std::env::var_os("TERRARIUM_TEMPLATES") {
        Some(root) if !root.is_empty() => PathBuf::from(root),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-templates"),
    }
}

/// Names of the templates under `root`, sorted.
pub fn templates(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("task.toml").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Loads a task by a template's name or from a folder (or a `task.toml`).
/// Something that exists as a path wins only when it is spelled as one
/// (with a `/` or a leading `.`), so that a folder `gpt` in the working
/// directory does not shadow the template of that name.
pub fn load(task: &str, templates_root: &Path) -> Result<LoadedTask, TaskError> {
    let spelled_as_path = task.contains(['/', '\\']) || task.starts_with('.');
    let template = templates_root.join(task);
    let folder =
        if !spelled_as_path && template.join("task.toml").is_file() { template } else { PathBuf::from(task) };
    let folder =
        if folder.is_file() { folder.parent().map(Path::to_path_buf).unwrap_or_default() } else { folder };
    let file = folder.join("task.toml");
    if !file.is_file() {
        let known = templates(templates_root).join(", ");
        return Err(TaskError::NotFound { task: task.to_owned(), known });
    }
    let text = read_text(&file)?;
    let task = Task::parse(&text, &file.display().to_string())?;
    let source = read_text(&folder.join(&task.header.candidate))?;
    let guide = folder.join("TASK.md");
    let guide = if guide.is_file() { Some(read_text(&guide)?) } else { None };
    Ok(LoadedTask { folder, task, source, guide })
}

/// Reads UTF-8 text of at most [`MAX_TEXT_BYTES`] from a regular file.
pub fn read_text(path: &Path) -> Result<String, TaskError> {
    let unreadable = |source| TaskError::Unreadable { path: path.to_path_buf(), source };
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        let source = std::io::Error::other("not a regular file");
        return Err(unreadable(source));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(TaskError::TooLarge { path: path.to_path_buf(), limit: MAX_TEXT_BYTES });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
