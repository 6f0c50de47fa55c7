//! Reading what the compiler said. All of it is hostile text: the source has a
//! hand in every message.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::outcome::Diagnostic;
use crate::text;

/// Most messages that are kept, errors before warnings.
const MOST: usize = 32;
/// Longest one-line message, in bytes.
const MESSAGE_BYTES: usize = 1000;
/// Longest rendered message, in bytes.
const RENDERED_BYTES: usize = 4000;
/// Most bytes of all rendered messages together.
const ALL_BYTES: usize = 32 << 10;
/// What is kept of the lines that are no messages (crashes, aborts).
const OTHER_BYTES: usize = 2000;

/// One line of `--error-format=json`
/// (<https://doc.rust-lang.org/rustc/json.html>).
#[derive(Deserialize)]
struct Message {
    message: String,
    #[serde(default)]
    code: Option<Code>,
    level: String,
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    rendered: Option<String>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    line_start: u32,
    column_start: u32,
    #[serde(default)]
    is_primary: bool,
    #[serde(default)]
    expansion: Option<Box<Expansion>>,
}

#[derive(Deserialize)]
struct Expansion {
    span: Span,
}

/// What the compiler's output holds.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Errors, then warnings, each in the order of the output.
    pub diagnostics: Vec<Diagnostic>,
    /// Lines that are no messages: the last words of a crash.
    pub other: String,
    /// Whether it said that there was no more memory.
    pub out_of_memory: bool,
    /// Whether it said that a file grew too large.
    pub file_too_large: bool,
    /// The signal that ended the linker, if one did.
    pub linker_signal: Option<i32>,
}

/// Reads the output of one call.
pub(super) struct Reader {
    /// Paths that say something about this machine, and what stands for them.
    hidden: Vec<(String, &'static str)>,
    /// Name of the candidate's source, as the compiler was given it.
    source: &'static str,
}

impl Reader {
    pub(super) fn new(job: &Path, source: &'static str, hidden: &[(PathBuf, &'static str)]) -> Self {
        let mut hidden: Vec<(String, &'static str)> = hidden
            .iter()
            .map(|(path, name)| (path.as_path(), *name))
            .chain([(job, "<job>")])
            .map(|(path, name)| (path.to_string_lossy().into_owned(), name))
            .collect();
        // The longest first, for one may lie inside of another.
        hidden.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self { hidden, source }
    }

    pub(super) fn read(&self, stderr: &[u8]) -> Read {
        let output = String::from_utf8_lossy(stderr);
        let mut read = Read::default();
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let mut other = String::new();
        for line in output.lines() {
            match serde_json::from_str::<Message>(line) {
                Ok(message) => {
                    notice(&message, &mut read);
                    // Counts of messages ("aborting due to …") say nothing new.
                    if message.level == "failure-note" || message.message.starts_with("aborting due to ") {
                        continue;
                    }
                    let list = if message.level.starts_with("error") { &mut errors } else { &mut warnings };
                    if list.len() < MOST {
                        list.push(self.diagnostic(message));
                    }
                }
                // The last message may have been cut off by the limit on stderr.
                Err(_) if line.starts_with('{') => {}
                Err(_) => {
                    other.push_str(line);
                    other.push('\n');
                }
            }
        }
        self.finish(read, errors, warnings, &other)
    }

    /// Reads the output of one clang call: lines `file:line:column: level:
    /// message`, and whatever the driver and the linker say.
    pub(super) fn read_clang(&self, stderr: &[u8]) -> Read {
        let output = String::from_utf8_lossy(stderr);
        let mut read = Read::default();
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let mut other = String::new();
        for line in output.lines() {
            match self.clang_line(line) {
                Some(diagnostic) => {
                    let list = if diagnostic.level == "error" { &mut errors } else { &mut warnings };
                    if list.len() < MOST {
                        list.push(diagnostic);
                    }
                }
                None => {
                    read.linker_signal = read.linker_signal.or_else(|| signal_of(line));
                    other.push_str(line);
                    other.push('\n');
                }
            }
        }
        read.file_too_large = other.contains("File too large");
        self.finish(read, errors, warnings, &other)
    }

    /// One message of clang, of its driver or of the linker.
    fn clang_line(&self, line: &str) -> Option<Diagnostic> {
        let places = ["fatal error", "error", "warning"];
        let (place, level, text) = places.iter().find_map(|level| {
            let (place, text) = line.split_once(&format!(": {level}: "))?;
            Some((place, if level.ends_with("error") { "error" } else { level }, text))
        })?;
        let mut numbers = place.strip_prefix(self.source).unwrap_or_default().split(':').skip(1);
        let mut number = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let (row, column) = (number(), number());
        // "linker command failed …" and the like: the messages before say why.
        if place.starts_with("clang") && (text.contains("command failed") || text.contains(UNABLE)) {
            return None;
        }
        let code = text.rsplit_once(" [-W").and_then(|(_, code)| code.strip_suffix(']'));
        Some(Diagnostic {
            level: level.to_owned(),
            code: code.map(|code| self.clean(code, 80)),
            message: self.clean(text, MESSAGE_BYTES).replace(['\n', '\t'], " "),
            line: row,
            column,
            rendered: self.clean(line, RENDERED_BYTES),
        })
    }

    fn finish(
        &self,
        mut read: Read,
        mut errors: Vec<Diagnostic>,
        warnings: Vec<Diagnostic>,
        other: &str,
    ) -> Read {
        const MEMORY: &[&str] =
            &["memory allocation of ", "out of memory", "Cannot allocate memory", "bad_alloc"];
        read.out_of_memory |= MEMORY.iter().any(|words| other.contains(words));
        let start = other.len().saturating_sub(4 * OTHER_BYTES);
        let tail = other.get(other.ceil_char_boundary(start)..).unwrap_or_default();
        read.other = self.clean(tail, OTHER_BYTES);
        errors.extend(warnings);
        errors.truncate(MOST);
        let mut room = ALL_BYTES;
        for diagnostic in &mut errors {
            truncate(&mut diagnostic.rendered, room);
            room -= diagnostic.rendered.len();
        }
        read.diagnostics = errors;
        read
    }

    fn diagnostic(&self, message: Message) -> Diagnostic {
        let (line, column) =
            message.spans.iter().find(|span| span.is_primary).map_or((0, 0), |span| self.position(span));
        Diagnostic {
            level: self.clean(&message.level, 40),
            code: message.code.map(|code| self.clean(&code.code, 80)),
            message: self.clean(&message.message, MESSAGE_BYTES).replace(['\n', '\t'], " "),
            line,
            column,
            rendered: self.clean(message.rendered.as_deref().unwrap_or(&message.message), RENDERED_BYTES),
        }
    }

    /// The place in the candidate's source: through macros, outwards.
    fn position(&self, span: &Span) -> (u32, u32) {
        let mut place = span;
        while !place.file_name.ends_with(self.source) {
            match &place.expansion {
                Some(expansion) => place = &expansion.span,
                None => return (0, 0),
            }
        }
        (place.line_start, place.column_start)
    }

    /// Hides paths, defuses control characters and cuts to a length.
    fn clean(&self, text: &str, bytes: usize) -> String {
        // Cut first, generously: a message may be megabytes long.
        let mut text = text[..text.floor_char_boundary(bytes.saturating_mul(4))].to_owned();
        for (path, name) in &self.hidden {
            text = text.replace(path.as_str(), name);
        }
        text::clean(&text, bytes)
    }
}

/// Cuts to at most `bytes`, at a character's boundary.
fn truncate(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

const UNABLE: &str = "unable to execute command: ";

/// The signal that a line of clang's driver names, where one ended a program
/// that it had started. Not `Killed`: a source can put words into this stream,
/// and must not be able to blame the host.
fn signal_of(line: &str) -> Option<i32> {
    let words = line.strip_prefix("clang: error: ")?.strip_prefix(UNABLE)?;
    [
        ("CPU time limit exceeded", libc::SIGXCPU),
        ("File size limit exceeded", libc::SIGXFSZ),
        ("Segmentation fault", libc::SIGSEGV),
        ("Aborted", libc::SIGABRT),
    ]
    .into_iter()
    .find_map(|(name, signal)| words.starts_with(name).then_some(signal))
}

/// What a message says about the linker and about limits.
fn notice(message: &Message, read: &mut Read) {
    let from_compiler = message.spans.is_empty();
    if !from_compiler {
        return;
    }
    if message.message.starts_with("linking with ") {
        for signal in [libc::SIGKILL, libc::SIGXCPU, libc::SIGXFSZ, libc::SIGSEGV, libc::SIGABRT] {
            if message.message.contains(&format!("signal: {signal} ")) {
                read.linker_signal = Some(signal);
            }
        }
    }
    read.file_too_large |= message.message.contains("File too large");
    read.out_of_memory |= message.message.contains("Cannot allocate memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> Reader {
        Reader { hidden: vec![("/home/ada/.rustup".into(), "<sysroot>")], source: "in/candidate.rs" }
    }

    fn message(level: &str, text: &str) -> String {
        serde_json::json!({"message": text, "level": level, "code": {"code": "E0001"}, "rendered": text,
            "spans": [{"file_name": "in/candidate.rs", "line_start": 3, "column_start": 7, "is_primary": true}]})
        .to_string()
    }

    #[test]
    fn errors_come_before_warnings_and_counts_are_dropped() {
        let text = [
            message("warning", "unused"),
            message("error", "bad"),
            message("error", "aborting due to 1 previous error"),
        ]
        .join("\n");
        let read = reader().read(text.as_bytes());
        let got: Vec<_> = read
            .diagnostics
            .iter()
            .map(|d| (d.level.as_str(), d.message.as_str(), d.line, d.column))
            .collect();
        assert_eq!(got, [("error", "bad", 3, 7), ("warning", "unused", 3, 7)]);
    }

    #[test]
    fn control_characters_direction_marks_and_paths_are_gone() {
        let text = message("error", "a\u{1b}[31mred\u{7}\u{202e}b at /home/ada/.rustup/x\nnext");
        let read = reader().read(text.as_bytes());
        assert_eq!(read.diagnostics[0].rendered, "a\u{fffd}[31mred\u{fffd}\u{fffd}b at <sysroot>/x\nnext");
        assert_eq!(read.diagnostics[0].message, "a\u{fffd}[31mred\u{fffd}\u{fffd}b at <sysroot>/x next");
    }

    #[test]
    fn a_flood_is_cut_in_number_and_in_bytes() {
        let long = "é".repeat(10_000);
        let text = (0..1000).map(|_| message("error", &long)).collect::<Vec<_>>().join("\n");
        let read = reader().read(text.as_bytes());
        assert_eq!(read.diagnostics.len(), MOST);
        let bytes: usize = read.diagnostics.iter().map(|d| d.rendered.len()).sum();
        assert!(bytes <= ALL_BYTES, "{bytes}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_not_taken_for_a_crash() {
        let whole = message("error", "bad");
        let text = format!("{whole}\n{}", &whole[..40]);
        let read = reader().read(text.as_bytes());
        assert_eq!(read.diagnostics.len(), 1);
        assert_eq!(read.other, "");
    }

    #[test]
    fn an_abort_for_want_of_memory_is_recognised_but_not_one_in_the_source() {
        assert!(reader().read(b"memory allocation of 1610612736 bytes failed\n").out_of_memory);
        assert!(!reader().read(message("error", "out of memory").as_bytes()).out_of_memory);
    }

    #[test]
    fn the_messages_of_clang_are_read_with_their_places() {
        let reader = Reader { hidden: Vec::new(), source: "in/candidate.c" };
        let text = "in/candidate.c:3:9: warning: unused variable 'x' [-Wunused-variable]\n\
                    in/candidate.c:4:10: fatal error: 'nothing.h' file not found\n\
                    wasm-ld: error: tmp/x.o: undefined symbol: f\n\
                    clang: error: linker command failed with exit code 1 (use -v to see invocation)\n\
                    clang: error: unable to execute command: CPU time limit exceeded\n";
        let read = reader.read_clang(text.as_bytes());
        let got: Vec<_> = read
            .diagnostics
            .iter()
            .map(|d| (d.level.as_str(), d.line, d.column, d.message.as_str()))
            .collect();
        assert_eq!(got[0], ("error", 4, 10, "'nothing.h' file not found"));
        assert_eq!(got[1], ("error", 0, 0, "tmp/x.o: undefined symbol: f"));
        assert_eq!(got.last(), Some(&("warning", 3, 9, "unused variable 'x' [-Wunused-variable]")));
        assert_eq!(read.diagnostics.last().and_then(|d| d.code.as_deref()), Some("unused-variable"));
        assert_eq!(read.linker_signal, Some(libc::SIGXCPU));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        proptest::proptest!(|(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4000))| {
            let _ = reader().read(&bytes);
            let _ = reader().read_clang(&bytes);
        });
    }
}
