//! Errors as a person meets them: what, why, and one thing to try.

use super::exit;
use crate::EngineError;
use crate::corpus::CorpusError;
use crate::task::TaskError;
use std::error::Error;
use terrarium_sandbox::SandboxError;
use terrarium_sandbox::toolchain::ToolchainError;

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    message: String,
    causes: Vec<String>,
    hint: String,
    /// The exit code.
    pub exit: i32,
}

impl Failure {
    /// With a hint, exit code 1.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: hint.into(), exit: exit::FAILED }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: exit::USAGE, ..Self::new(message, hint) }
    }

    /// This machine cannot do it.
    pub fn unavailable(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: exit::UNAVAILABLE, ..Self::new(message, hint) }
    }

    fn of(error: &(dyn Error + 'static), hint: String, exit: i32) -> Self {
        let message = error.to_string();
        let mut causes: Vec<String> = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            // A message that already ends with its cause is not repeated.
            let text = cause.to_string();
            if !message.contains(&text) && causes.last() != Some(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        Self { message, causes, hint, exit }
    }

    /// Prints `error:`, `caused by:` and `hint:` to standard error.
    pub fn print(&self) {
        eprintln!("error: {}", self.message);
        for cause in &self.causes {
            eprintln!("caused by: {cause}");
        }
        if !self.hint.is_empty() {
            eprintln!("hint: {}", self.hint);
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Host { .. } => exit::UNAVAILABLE,
            EngineError::Task(_) => exit::USAGE,
            _ => exit::FAILED,
        };
        Self::of(&error, error.hint(), code)
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        Self::of(&error, error.hint(), exit::USAGE)
    }
}

impl From<CorpusError> for Failure {
    fn from(error: CorpusError) -> Self {
        Self::of(&error, error.hint(), exit::FAILED)
    }
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Self {
        Self::of(&error, error.hint(), exit::UNAVAILABLE)
    }
}

impl From<ToolchainError> for Failure {
    fn from(error: ToolchainError) -> Self {
        Self::of(&error, error.hint(), exit::UNAVAILABLE)
    }
}
