//! `[search.commands.NAME]`: a command-line agent as a proposer.
//!
//! It gets a fresh folder with the program, the task, the history and the
//! SDK's documentation, and leaves a changed file. Its environment is only
//! what is listed. At its deadline the whole process group is killed. What it
//! does meanwhile, it does with the rights of whoever started the run: an
//! agent is trusted like any program that one starts, its proposal is not.

use super::agent::{Agent, Brief, Budget, Desk, Refusal, Reply};
use super::change::Change;
use super::model::prompt;
use crate::candidate::Cost;
use crate::error::EngineError;
use crate::task::{CommandConfig, read_text};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names and command lines of known agents in their headless modes.
pub const PRESETS: [(&str, &[&str]); 6] = [
    ("claude", &["claude", "-p", "{prompt}", "--permission-mode", "acceptEdits"]),
    ("codex", &["codex", "exec", "--full-auto", "--skip-git-repo-check", "{prompt}"]),
    ("gemini", &["gemini", "--approval-mode", "auto_edit", "-p", "{prompt}"]),
    ("aider", &["aider", "--yes-always", "--no-git", "--no-check-update", "--message", "{prompt}", "{file}"]),
    ("opencode", &["opencode", "run", "{prompt}"]),
    ("cursor", &["cursor-agent", "-p", "--force", "{prompt}"]),
];

/// The file to be changed.
const FILE: &str = "candidate.rs";

/// How long a prompt is, in tokens (estimated): an agent reads the rest itself.
const PROMPT_TOKENS: usize = 12_000;

/// What the SDK offers, as its sources say.
const SDK: &[(&str, &str)] = &[
    ("lib.rs", include_str!("../../../guest-templates/sdk/src/lib.rs")),
    ("tensor.rs", include_str!("../../../guest-templates/sdk/src/tensor.rs")),
    ("tape.rs", include_str!("../../../guest-templates/sdk/src/tape.rs")),
    ("knobs.rs", include_str!("../../../guest-templates/sdk/src/knobs.rs")),
    ("rowkernel.rs", include_str!("../../../guest-templates/sdk/src/rowkernel.rs")),
    ("optim.rs", include_str!("../../../guest-templates/sdk/src/optim.rs")),
    ("schedule.rs", include_str!("../../../guest-templates/sdk/src/schedule.rs")),
    ("terrarium.wit", include_str!("../../../sandbox/wit/terrarium.wit")),
];

/// A command-line agent as a proposer.
#[derive(Debug)]
pub struct CommandAgent {
    name: String,
    config: CommandConfig,
}

/// Waits until its standard input ends, as it does when this process is
/// killed, and kills the group.
const GUARD: &str = "read -r _; kill -s KILL -- \"-$1\"";

/// An agent with all that it started, which do not outlive this value or this
/// process.
struct Group {
    agent: Child,
    guard: Option<Child>,
}

impl Group {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut group = Self { agent: command.process_group(0).spawn()?, guard: None };
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "sh", &group.agent.id().to_string()]).env_clear().process_group(0);
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        group.guard = Some(guard.spawn()?);
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The guard first: once the agent is reaped, its number may be another's.
        if let Some(guard) = &mut self.guard {
            let _ = guard.kill();
            let _ = guard.wait();
        }
        if let Some(pid) = i32::try_from(self.agent.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = self.agent.wait();
    }
}

impl CommandAgent {
    /// As configured.
    pub fn new(name: &str, config: &CommandConfig) -> Self {
        Self { name: name.to_owned(), config: config.clone() }
    }

    fn words(&self, text: &str) -> Vec<String> {
        let of_preset = |name: &String| PRESETS.iter().find(|(known, _)| known == name);
        let words: Vec<String> = match self.config.preset.as_ref().and_then(of_preset) {
            Some((_, words)) => words.iter().map(|w| (*w).to_owned()).collect(),
            None => self.config.command.clone(),
        };
        words.into_iter().map(|word| word.replace("{file}", FILE).replace("{prompt}", text)).collect()
    }

    /// The agent's folder.
    fn lay_out(&self, folder: &Path, brief: &Brief<'_>, text: &str) -> Result<(), EngineError> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|e| EngineError::io("write", &path, e))
        };
        write(FILE, &brief.parent.source)?;
        write("TASK.md", brief.guide)?;
        write("PROMPT.md", text)?;
        let sdk = folder.join("sdk");
        std::fs::create_dir(&sdk).map_err(|e| EngineError::io("create", &sdk, e))?;
        SDK.iter().try_for_each(|(name, text)| write(&format!("sdk/{name}"), text))
    }

    /// Runs the command in its folder; says why it failed, if it did.
    fn run(&self, folder: &Path, words: &[String], desk: &dyn Desk) -> Result<Option<String>, EngineError> {
        let Some((program, arguments)) = words.split_first() else {
            return Ok(Some("there is no command".into()));
        };
        let log_path = folder.join(".agent.log");
        let log = std::fs::File::create(&log_path).map_err(|e| EngineError::io("create", &log_path, e))?;
        let again = log.try_clone().map_err(|e| EngineError::io("open", &log_path, e))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).env_clear();
        command.stdin(Stdio::null()).stdout(log).stderr(again);
        for name in ["PATH", "HOME", "LANG", "TERM"]
            .into_iter()
            .chain(self.config.environment.iter().map(String::as_str))
        {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut group = match Group::start(&mut command) {
            Ok(group) => group,
            Err(error) => return Ok(Some(format!("cannot start `{program}`: {error}"))),
        };
        let end = Instant::now() + Duration::from_secs_f64(self.config.deadline_s);
        loop {
            match group.agent.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(None),
                Ok(Some(status)) => return Ok(Some(format!("`{program}` ended with {status}"))),
                Ok(None) => {}
                Err(error) => return Ok(Some(format!("cannot wait for `{program}`: {error}"))),
            }
            if desk.stopped() {
                return Ok(Some("the run was stopped".into()));
            }
            if Instant::now() >= end {
                return Ok(Some(format!("`{program}` was killed at its deadline")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Agent for CommandAgent {
    fn name(&self) -> &str {
        &self.name
    }

    fn budget(&self) -> Budget {
        Budget { requests: self.config.requests, ..Budget::default() }
    }

    fn ask(&self, brief: &Brief<'_>, desk: &dyn Desk) -> Result<Option<Reply>, EngineError> {
        let text = format!(
            "{}\nChange the file {FILE} in this folder: only what lies between its EVOLVE-BLOCK markers. sdk/ \
             holds the SDK's documentation, TASK.md the task. Leave a line that says what you changed in NOTE.txt. \
             Do not ask questions; stop when the file is changed.\n",
            prompt::prompt(brief, PROMPT_TOKENS)
        );
        let mut reply =
            Reply { model: self.words("")[0].clone(), prompt: Some(desk.keep(&text)?), ..Reply::default() };
        match desk.reserve(Cost { requests: 1, ..Cost::default() }) {
            Ok(()) => {}
            Err(Refusal::Budget(what)) => {
                reply.problem = format!("the budget is used up: {what}");
                return Ok(Some(reply));
            }
            Err(Refusal::Archive(error)) => return Err(error),
        }
        let folder = tempfile::Builder::new()
            .prefix("terrarium-agent-")
            .tempdir()
            .map_err(|e| EngineError::io("create", &std::env::temp_dir(), e))?;
        self.lay_out(folder.path(), brief, &text)?;
        let problem = self.run(folder.path(), &self.words(&text), desk)?;
        // An agent that failed late may have left a good file all the same.
        let path = folder.path().join(FILE);
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
        let source = if is_file {
            read_text(&path).map_err(|e| e.to_string())
        } else {
            Err(format!("it left no {FILE}"))
        };
        let note_path = folder.path().join("NOTE.txt");
        let has_note = std::fs::symlink_metadata(&note_path).is_ok_and(|m| m.is_file());
        let note = if has_note { read_text(&note_path).unwrap_or_default() } else { String::new() };
        let draft = source.and_then(|source| {
            let note = note.lines().next().unwrap_or_default().to_owned();
            Change { source: Some(source), note, ..Change::default() }.draft(brief.parent, &[])
        });
        match draft {
            Ok(draft) => reply.draft = Some(draft),
            Err(what) => reply.problem = problem.unwrap_or(what),
        }
        Ok(Some(reply))
    }
}
