//! What is to be improved: `task.toml`, its candidate's source, its budgets.
//!
//! A task is a folder with `task.toml`, the candidate's source file and
//! (optionally) `TASK.md`, which tells a proposer what is asked.

mod agents;
mod error;
mod search;

pub use crate::scoring::EvaluatorConfig;
pub use agents::{ApiKind, CommandConfig, ModelConfig, Prices};
pub use error::{InvalidTask, TaskError};
pub use search::{FeatureConfig, FeatureKind, RungConfig, SearchConfig, StrategyKind};

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

/// `[published]`: what is known of a problem, to compare with. It has no
/// influence on any run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFigure {
    /// The best published value of the metric.
    pub value: f64,
    /// Where it was published.
    pub source: String,
}

/// `[data]`: what a trainer learns from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataConfig {
    /// Text, split by crate or by file.
    Corpus {
        /// Tokens: 256 are the bytes of the text; more are trained on the train
        /// split by byte-pair encoding.
        #[serde(default = "bytes")]
        vocabulary: u32,
    },
}

fn bytes() -> u32 {
    crate::corpus::BYTES
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
    /// `[published]`, for problems with a literature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedFigure>,
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
        if let Some(DataConfig::Corpus { vocabulary }) = self.data
            && !(crate::corpus::BYTES..=crate::corpus::MAX_VOCABULARY).contains(&vocabulary)
        {
            let error = crate::corpus::CorpusError::Vocabulary { asked: vocabulary };
            return fault(&["data", "vocabulary"], error.to_string(), &error.hint());
        }
        if let Some((field, what, hint)) = self.evaluator.as_ref().and_then(EvaluatorConfig::fault) {
            return fault(&["evaluator", field], what, hint);
        }
        if let Some(published) = &self.published
            && !published.value.is_finite()
        {
            let what = format!("value = {} is no published figure", published.value);
            return fault(&["published", "value"], what, "leave the section out where nothing is known");
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

/// Names of the templates under `root`, sorted: of each folder with a
/// `task.toml`, and of each further `NAME.toml` in such a folder, which states
/// another problem for the same candidate.
pub fn templates(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = template_files(root).into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

/// Names and files of the templates.
fn template_files(root: &Path) -> Vec<(String, PathBuf)> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for folder in entries(root).filter(|entry| entry.path().join("task.toml").is_file()) {
        for file in entries(&folder.path()).map(|entry| entry.path()) {
            let named = file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
            let name = match named {
                Some(stem) if stem == "task" => folder.file_name().into_string().ok(),
                named => named,
            };
            if let (Some(name), Some("toml"), true) =
                (name, file.extension().and_then(|e| e.to_str()), file.is_file())
            {
                found.push((name, file));
            }
        }
    }
    found
}

/// The `task.toml` of a template, or the file that takes its place.
pub fn template_file(root: &Path, name: &str) -> Option<PathBuf> {
    template_files(root).into_iter().find(|(known, _)| known == name).map(|(_, file)| file)
}

/// Loads a task by a template's name or from a folder (or the file itself).
/// Something that exists as a path wins only when it is spelled as one
/// (with a `/` or a leading `.`), so that a folder `gpt` in the working
/// directory does not shadow the template of that name.
pub fn load(task: &str, templates_root: &Path) -> Result<LoadedTask, TaskError> {
    let spelled_as_path = task.contains(['/', '\\']) || task.starts_with('.');
    let template = if spelled_as_path { None } else { template_file(templates_root, task) };
    let path = template.unwrap_or_else(|| PathBuf::from(task));
    let file = if path.is_dir() { path.join("task.toml") } else { path };
    if !file.is_file() || file.extension().is_none_or(|e| e != "toml") {
        let known = templates(templates_root).join(", ");
        return Err(TaskError::NotFound { task: task.to_owned(), known });
    }
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let text = read_text(&file)?;
    let mut task = Task::parse(&text, &file.display().to_string())?;
    if let Some(EvaluatorConfig::Command(crate::evaluate::Program { command, .. })) = &mut task.evaluator {
        // A run is continued from anywhere, so its files are named in full.
        for word in command.iter_mut() {
            let path = folder.join(&*word);
            if path.is_file()
                && stays_inside(Path::new(&*word))
                && let Ok(path) = std::path::absolute(&path)
            {
                *word = path.to_string_lossy().into_owned();
            }
        }
    }
    if let Some(EvaluatorConfig::Tabular(table)) = &mut task.evaluator
        && let (Some(csv), None) = (&table.csv, &table.text)
    {
        table.text = Some(read_text(&folder.join(csv))?);
    }
    // What was read is checked like what was written.
    if let Some((path, what, hint)) = task.fault() {
        return Err(TaskError::value(&text, &file.display().to_string(), path, what, hint));
    }
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
