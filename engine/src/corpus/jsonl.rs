//! JSON lines: each line an object, its text under `text`.

use super::Split;
use super::shards::{Document, is_text};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// The documents of a file, and what was left out of it, line by line. Other
/// fields of a line are ignored; empty lines are no lines.
pub(super) fn documents(name: &str, file: &[u8]) -> (Vec<Document>, Vec<String>) {
    let (mut documents, mut skipped) = (Vec::new(), Vec::new());
    for (number, line) in file.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let name = format!("{name}:{}", number + 1);
        match serde_json::from_slice::<Line>(line) {
            Err(error) => skipped.push(format!("{name}: {}", reason(&error))),
            Ok(Line { text }) => match is_text(text.as_bytes()) {
                Ok(()) => documents.push(Document { split: Split::Train, name, text: text.into_bytes() }),
                Err(reason) => skipped.push(format!("{name}: {reason}")),
            },
        }
    }
    (documents, skipped)
}

/// What is wrong with a line, without its number: that of the file is known.
fn reason(error: &serde_json::Error) -> String {
    let what = error.to_string();
    let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
    format!("is no object with a string `text` (column {}: {what})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_documents_and_bad_ones_are_named() {
        let file = b"{\"text\": \"one\\nmore\", \"id\": 1}\n\n{\"text\": \"two\"}\r\n{\"text\": 3}\n{\"body\": \"x\"}\n\
            {\"text\": \"cut o\n{\"text\": \" \"}\n{\"text\": \"a\\u0000b\"}\n{\"text\": \"\xff\"}";
        let (documents, skipped) = documents("d.jsonl", file);
        let found: Vec<_> = documents.iter().map(|d| (d.name.as_str(), d.text.as_slice())).collect();
        assert_eq!(found, [("d.jsonl:1", b"one\nmore".as_slice()), ("d.jsonl:3", b"two")]);
        let places: Vec<_> = skipped.iter().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(places, ["d.jsonl:4", "d.jsonl:5", "d.jsonl:6", "d.jsonl:7", "d.jsonl:8", "d.jsonl:9"]);
        assert!(skipped[0].contains("a string") && skipped[1].contains("text"), "{skipped:?}");
        assert!(skipped[3].ends_with("is empty") && skipped[4].ends_with("holds a byte 0"), "{skipped:?}");
    }
}
