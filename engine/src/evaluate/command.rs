//! An evaluator that is a program of the task's author, speaking JSON lines.
//!
//! It is asked for the candidate's input, and for the score of its output:
//!
//! ```text
//! → {"op":"input","seed":7}                    ← {"input":[7,0,0,0]}
//! → {"op":"score","seed":7,"output":[1,2,3]}   ← {"score":0.25} or {"reject":"why"}
//! ```
//!
//! One process serves many evaluations, one at a time; several run side by
//! side. It is trusted, and yet bounded: by a deadline, by the length of its
//! lines, and it is killed with its group. It gets no environment but `PATH`,
//! `HOME` and `LANG`.

use super::HostError;
use crate::scoring::Fault;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use terrarium_sandbox::Outcome;

/// Longest line of an answer.
const MAX_LINE: u64 = 64 << 20;
/// Processes that are kept.
const MOST_IDLE: usize = 64;

/// `[evaluator]` with `builtin = "command"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Program and arguments. One that names a file of the task's folder means
    /// that file.
    pub command: Vec<String>,
    /// Longest time for one answer, in seconds.
    #[serde(default = "thirty")]
    pub deadline_s: u32,
}

fn thirty() -> u32 {
    30
}

impl Program {
    /// The first field that is out of its range.
    pub fn fault(&self) -> Option<Fault> {
        if self.command.is_empty() {
            let what = "a command evaluator needs a program".to_owned();
            return Some(("command", what, "such as command = [\"python3\", \"score.py\"]"));
        }
        if !(1..=86_400).contains(&self.deadline_s) {
            let what = format!("deadline_s = {} is out of range: 1..=86400", self.deadline_s);
            return Some(("deadline_s", what, "30 is the default"));
        }
        None
    }
}

/// An evaluator's processes.
#[derive(Debug)]
pub struct CommandEvaluator {
    words: Vec<String>,
    deadline: Duration,
    idle: Mutex<Vec<Process>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// To the thread that writes: a program that does not read must not hold up
    /// the deadline.
    questions: SyncSender<String>,
    answers: Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

#[derive(Deserialize)]
struct InputAnswer {
    input: Vec<u8>,
}

#[derive(Deserialize)]
struct ScoreAnswer {
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    reject: Option<String>,
}

impl CommandEvaluator {
    /// Program and arguments, and the longest time for one answer.
    pub fn new(words: &[String], deadline_s: u32) -> Self {
        let deadline = Duration::from_secs(u64::from(deadline_s));
        Self { words: words.to_vec(), deadline, idle: Mutex::default() }
    }

    fn trouble(&self, what: impl std::fmt::Display) -> HostError {
        HostError {
            message: format!("the evaluator `{}`: {what}", self.words.join(" ")),
            hint: "try it by hand: it reads one JSON object a line and answers each with one".into(),
        }
    }

    fn start(&self) -> Result<Process, HostError> {
        let (program, arguments) = self.words.split_first().ok_or_else(|| self.trouble("it is empty"))?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        for name in ["PATH", "HOME", "LANG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().map_err(|e| self.trouble(e))?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.trouble("it has no standard input or output"));
        };
        let (send, answers) = sync_channel(1);
        // Ends when the process does, or when nobody listens any more.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output);
            loop {
                let mut line = String::new();
                match lines.by_ref().take(MAX_LINE).read_line(&mut line) {
                    Ok(read) if read > 0 => {}
                    _ => return,
                }
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let (questions, asked) = sync_channel::<String>(1);
        // Ends with the process, whose death breaks the pipe.
        std::thread::spawn(move || {
            for question in asked {
                if input.write_all(question.as_bytes()).and_then(|()| input.flush()).is_err() {
                    return;
                }
            }
        });
        Ok(Process { child, questions, answers })
    }

    fn ask(&self, question: &Value) -> Result<String, HostError> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let process = match kept {
            Some(process) => process,
            None => self.start()?,
        };
        process
            .questions
            .send(format!("{question}\n"))
            .map_err(|_| self.trouble("it does not read its standard input any more"))?;
        let answer = process
            .answers
            .recv_timeout(self.deadline)
            .map_err(|_| self.trouble(format!("it gave no answer within {} s", self.deadline.as_secs())))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(process);
        }
        Ok(answer)
    }

    /// What the candidate is called with.
    pub fn input(&self, seed: u64) -> Result<Vec<u8>, HostError> {
        let answer = self.ask(&json!({ "op": "input", "seed": seed }))?;
        let answer: InputAnswer = serde_json::from_str(&answer).map_err(|e| self.trouble(e))?;
        Ok(answer.input)
    }

    /// The score of what it returned, or why that is worthless.
    pub fn score(&self, seed: u64, output: &[u8]) -> Result<Result<f64, Outcome>, HostError> {
        let answer = self.ask(&json!({ "op": "score", "seed": seed, "output": output }))?;
        let answer: ScoreAnswer = serde_json::from_str(&answer).map_err(|e| self.trouble(e))?;
        match (answer.score, answer.reject) {
            (Some(score), None) => Ok(Ok(score)),
            (None, Some(reason)) => {
                let reason = reason.chars().filter(|c| !c.is_control()).take(300).collect();
                Ok(Err(Outcome::InvalidOutput { reason }))
            }
            _ => Err(self.trouble("it answered with neither a score nor a reason to reject")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline_s: u32) -> CommandEvaluator {
        CommandEvaluator::new(&["sh".into(), "-c".into(), script.into()], deadline_s)
    }

    #[test]
    fn it_is_asked_for_inputs_and_scores_and_its_rejections_are_outcomes() {
        let script = r#"while read line; do case "$line" in
            *input*) echo '{"input":[1,2]}';; *'[9]'*) echo '{"reject":"nine"}';; *) echo '{"score":0.5}';; esac; done"#;
        let evaluator = shell(script, 5);
        assert_eq!(evaluator.input(3).unwrap(), [1, 2]);
        assert_eq!(evaluator.score(3, &[1]).unwrap(), Ok(0.5));
        assert!(matches!(evaluator.score(3, &[9]).unwrap(), Err(Outcome::InvalidOutput { .. })));
        assert_eq!(evaluator.idle.lock().unwrap().len(), 1, "one process served them all");
    }

    #[test]
    fn one_that_hangs_dies_or_babbles_is_the_hosts_trouble() {
        for (script, what) in [
            ("sleep 60", "no answer within 1 s"),
            ("exit 1", "evaluator"),
            ("while read l; do echo nonsense; done", "expected"),
            ("while read l; do echo '{}'; done", "neither"),
        ] {
            let begun = std::time::Instant::now();
            let error = shell(script, 1).score(1, &[]).unwrap_err();
            assert!(error.message.contains(what), "{script}: {error}");
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        // It never reads, and its input is more than a pipe holds.
        let begun = std::time::Instant::now();
        let error = shell("sleep 60", 1).score(1, &vec![255; 1 << 20]).unwrap_err();
        assert!(error.message.contains("no answer within 1 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        let missing = CommandEvaluator::new(&["/does/not/exist".into()], 1);
        assert!(missing.input(1).is_err());
    }
}
