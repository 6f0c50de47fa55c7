//! What changed from one candidate to another: a unified diff of the source
//! and a table of knobs. The text is untrusted; each rendering cleans it.

use similar::{ChangeTag, TextDiff};
use terrarium_sandbox::{KnobRange, KnobValue, Knobs, is_hidden};

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// How a line of a diff relates to the two texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// `@@ -1,3 +1,4 @@`.
    Hunk,
    /// In both.
    Context,
    /// Only in the old text.
    Removed,
    /// Only in the new text.
    Added,
}

/// One line of a diff, without its line feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffLine {
    /// Its kind.
    pub kind: LineKind,
    /// Its text, without the leading sign. Untrusted.
    pub text: String,
}

/// One knob whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnobChange {
    /// Name. Untrusted.
    pub name: String,
    /// Old value.
    pub old: String,
    /// New value.
    pub new: String,
}

/// The unified diff of two texts; empty when they are equal.
pub fn unified(old: &str, new: &str) -> Vec<DiffLine> {
    let diff = TextDiff::from_lines(old, new);
    let mut lines = Vec::new();
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        lines.push(DiffLine { kind: LineKind::Hunk, text: hunk.header().to_string().trim_end().to_owned() });
        for change in hunk.iter_changes() {
            let kind = match change.tag() {
                ChangeTag::Equal => LineKind::Context,
                ChangeTag::Delete => LineKind::Removed,
                ChangeTag::Insert => LineKind::Added,
            };
            lines.push(DiffLine { kind, text: change.value().trim_end_matches('\n').to_owned() });
        }
    }
    lines
}

/// The knobs whose effective values differ, by name. Where a knob is not
/// given, its default in `space` counts, or `default` is shown.
pub fn knob_changes(old: &Knobs, new: &Knobs, space: &[(String, KnobRange)]) -> Vec<KnobChange> {
    let show = |knobs: &Knobs, name: &str| {
        let range = space.iter().find(|(n, _)| n == name).map(|(_, r)| r);
        let value = knobs.get(name).cloned().or_else(|| {
            range.map(|r| match r {
                KnobRange::Number { default, .. } => KnobValue::Number(*default),
                KnobRange::Integer { default, .. } => KnobValue::Integer(*default),
                KnobRange::Choice { default, .. } => KnobValue::Choice(*default),
            })
        });
        match (value, range) {
            (None, _) => "default".to_owned(),
            (Some(KnobValue::Number(x)), _) => x.to_string(),
            (Some(KnobValue::Integer(x)), _) => x.to_string(),
            (Some(KnobValue::Choice(k)), Some(KnobRange::Choice { options, .. })) => {
                options.get(k as usize).cloned().unwrap_or_else(|| k.to_string())
            }
            (Some(KnobValue::Choice(k)), _) => k.to_string(),
        }
    };
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change =
        |name: &String| KnobChange { name: name.clone(), old: show(old, name), new: show(new, name) };
    names.into_iter().map(change).filter(|c| c.old != c.new).collect()
}

/// `text` fit for a terminal or a page: control characters, and those that
/// change the direction of writing or show nothing, are made visible.
pub fn cleaned(text: &str) -> String {
    let harmful = |c: char| (c.is_control() && c != '\t') || is_hidden(c);
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) {
            clean.push_str(&format!("\\u{{{:x}}}", c as u32));
        } else {
            clean.push(c);
        }
    }
    clean
}

/// The diff for a terminal, with a line feed after each line.
pub fn terminal(lines: &[DiffLine], colour: bool) -> String {
    let mut text = String::new();
    for line in lines {
        let (sign, code) = match line.kind {
            LineKind::Hunk => ("", "\x1b[36m"),
            LineKind::Context => (" ", ""),
            LineKind::Removed => ("-", "\x1b[31m"),
            LineKind::Added => ("+", "\x1b[32m"),
        };
        let body = cleaned(line.text.trim_end_matches('\r'));
        match colour && !code.is_empty() {
            true => text.push_str(&format!("{code}{sign}{body}\x1b[0m\n")),
            false => text.push_str(&format!("{sign}{body}\n")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_come_with_their_surroundings() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let lines = unified(old, &old.replace("e\n", "E\n"));
        assert_eq!(terminal(&lines, false), "@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n");
        assert!(terminal(&lines, true).contains("\x1b[31m-e\x1b[0m\n\x1b[32m+E\x1b[0m"));
        assert_eq!(unified(old, old), []);
    }

    #[test]
    fn hostile_text_cannot_steer_the_terminal() {
        let text = terminal(&unified("", "\x1b[2J\u{202e}abc\u{7}\n"), false);
        assert!(text.ends_with("+\\u{1b}[2J\\u{202e}abc\\u{7}\n"), "{text}");
    }

    #[test]
    fn knobs_are_compared_by_their_effect() {
        let knob = |x| Knobs::from([("lr".to_owned(), KnobValue::Number(x))]);
        let scale = terrarium_sandbox::KnobScale::Linear;
        let space = [("lr".to_owned(), KnobRange::Number { default: 0.5, low: 0.0, high: 1.0, scale })];
        assert_eq!(knob_changes(&Knobs::new(), &knob(0.5), &space), []);
        let change = KnobChange { name: "lr".into(), old: "0.5".into(), new: "0.25".into() };
        assert_eq!(knob_changes(&Knobs::new(), &knob(0.25), &space), [change]);
        assert_eq!(knob_changes(&knob(0.25), &Knobs::new(), &[])[0].new, "default");
    }
}
