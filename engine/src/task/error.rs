//! What can be wrong with a task, told with the place in the file.

use miette::{Diagnostic, NamedSource, SourceSpan};
use std::path::PathBuf;

/// A task's text that is not valid TOML, does not have the shape of a task,
/// or holds a value out of its range.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{origin}:{line}:{column}: {what}")]
pub struct InvalidTask {
    /// The file's name.
    pub origin: String,
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// The file's text.
    #[source_code]
    pub text: NamedSource<String>,
    /// Where in the text.
    #[label("here")]
    pub at: SourceSpan,
    /// What to try.
    #[help]
    pub hint: String,
}

/// A task that cannot be used.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum TaskError {
    /// The text is wrong at a known place.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(Box<InvalidTask>),
    /// Neither a template nor a folder with a task.
    #[error("there is no task `{task}`: no template of that name, and no folder with a task.toml")]
    #[diagnostic(help("templates: {known}; or give the path of a folder, such as ./my-task"))]
    NotFound {
        /// As asked for.
        task: String,
        /// The templates that exist.
        known: String,
    },
    /// A file of the task could not be read.
    #[error("cannot read {}: {source}", path.display())]
    #[diagnostic(help("check that the file exists, is UTF-8 text, and may be read"))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of the task is too large.
    #[error("{} is larger than {limit} bytes", path.display())]
    #[diagnostic(help("a candidate is source text; data belongs in the corpus"))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

impl TaskError {
    /// What to try.
    pub fn hint(&self) -> String {
        self.help().map(|help| help.to_string()).unwrap_or_default()
    }

    pub(super) fn syntax(text: &str, origin: &str, error: &toml::de::Error) -> Self {
        let what = error.message().trim().to_owned();
        let hint = if what.contains("unknown field") || what.contains("unknown variant") {
            "check the spelling; the accepted names are in the message"
        } else if what.contains("missing field") {
            "add the field; `terrarium init` writes a complete task.toml"
        } else if what.contains("floating point") {
            "write a whole number here, without a point; NaN and infinities are never accepted"
        } else if what.contains("invalid value: integer") {
            "the number does not fit here: it may not be negative or too large"
        } else if what.contains("invalid type") {
            "the value has the wrong type: text in quotes, numbers without"
        } else {
            "check the TOML syntax at this place"
        };
        Self::at(text, origin, error.span().unwrap_or(0..0), what, hint.to_owned())
    }

    pub(super) fn value(text: &str, origin: &str, path: Vec<&str>, what: String, hint: String) -> Self {
        let span = locate(text, &path).unwrap_or(0..0);
        Self::at(text, origin, span, what, hint)
    }

    fn at(text: &str, origin: &str, span: std::ops::Range<usize>, what: String, hint: String) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self::Invalid(Box::new(InvalidTask {
            origin: origin.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            what,
            text: NamedSource::new(origin, text.to_owned()).with_language("TOML"),
            at: SourceSpan::from(span.start..span.end.max(span.start)),
            hint,
        }))
    }
}

/// Where the value at `path` stands; if it is not there (a default), where
/// its section does.
fn locate(text: &str, path: &[&str]) -> Option<std::ops::Range<usize>> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut span = None;
    for name in path {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == *name) else {
            break;
        };
        span = Some(value.span());
        match value.get_ref().as_table() {
            Some(inner) => {
                // A whole section is too much to underline: its name will do.
                span = Some(key.span());
                table = inner;
            }
            None => break,
        }
    }
    span
}
