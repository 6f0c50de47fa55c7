//! The one error type of the SDK.

use std::fmt;

use crate::bindings::trainer::terrarium::guest::compute;

/// What went wrong: the host's refusal, or a mistake that the SDK saw first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The host refused, with this code.
    Host(compute::ErrorCode),
    /// Shapes do not fit together.
    Shape,
    /// A value out of its range, or calls in an order that cannot work.
    Invalid,
}

/// An error with a text for the person (or proposer) who meets it.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Shorthand for results of the SDK.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A shape mistake; say which operation and which shapes.
    pub fn shape(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Shape, message: message.into() }
    }

    /// Any other mistake of the caller.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, message: message.into() }
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// True when the training budget did not cover the work. The work was not
    /// started; for a training loop this is the end, not a failure.
    pub fn is_budget_exhausted(&self) -> bool {
        self.kind == ErrorKind::Host(compute::ErrorCode::BudgetExhausted)
    }

    /// The same error with what was being done put in front.
    pub fn during(mut self, what: &str) -> Self {
        self.message = [what, ": ", &self.message].concat();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<compute::Error> for Error {
    fn from(error: compute::Error) -> Self {
        let name = code_name(error.code);
        let message = match error.op {
            Some(op) => format!("{name} at operation {op}: {}", error.detail),
            None => format!("{name}: {}", error.detail),
        };
        Self { kind: ErrorKind::Host(error.code), message }
    }
}

/// The form in which a world's exports hand an error to the host.
impl From<Error> for String {
    fn from(error: Error) -> String {
        error.message
    }
}

/// The code as the interface spells it.
fn code_name(code: compute::ErrorCode) -> &'static str {
    use compute::ErrorCode::*;
    match code {
        BadHandle => "bad-handle",
        InvalidArgument => "invalid-argument",
        ShapeMismatch => "shape-mismatch",
        Alias => "alias",
        OutOfMemory => "out-of-memory",
        BudgetExhausted => "budget-exhausted",
        Denied => "denied",
        Quota => "quota",
        IndexRange => "index-range",
    }
}
