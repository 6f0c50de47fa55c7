//! The parts of a program that a proposer may change.
//!
//! A block is what lies between two marker lines, each a comment of its own:
//!
//! ```text
//! // EVOLVE-BLOCK-START activation
//! fn activation(x: Var) -> Var { x.relu().square() }
//! // EVOLVE-BLOCK-END
//! ```
//!
//! The name after `START` is optional. Everything outside the blocks, marker
//! lines included, stays byte for byte what it was, line endings and trailing
//! blanks too: [`check_edit`] compares bytes, never lines that were split and
//! joined again. Where a block was well-formed Rust, its successor must be
//! so by itself, so that no pair of edits can wrap the text between two
//! blocks into a comment, a string or a module that is compiled away.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::ops::Range;

/// What opens a block.
pub const START: &str = "EVOLVE-BLOCK-START";
/// What closes a block.
pub const END: &str = "EVOLVE-BLOCK-END";

/// One evolve block of a source text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvolveBlock {
    /// The name after `EVOLVE-BLOCK-START`, if any.
    pub name: Option<String>,
    /// Bytes between the marker lines, both marker lines excluded.
    pub body: Range<usize>,
    /// 1-based line of the start marker.
    pub line: usize,
}

/// Why a source text has no usable evolve blocks. Lines are 1-based.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// There is no marker at all.
    #[error("no evolve block: put `// {START}` and `// {END}` on lines of their own around what may change")]
    None,
    /// A start without an end.
    #[error("line {line}: this {START} is never closed: add `// {END}`")]
    Unclosed {
        /// Line of the start.
        line: usize,
    },
    /// An end without a start.
    #[error("line {line}: this {END} closes nothing: add `// {START}` above it")]
    Unopened {
        /// Line of the end.
        line: usize,
    },
    /// A start inside a block.
    #[error("line {line}: evolve blocks cannot be nested: the one of line {outer} is still open")]
    Nested {
        /// Line of the inner start.
        line: usize,
        /// Line of the outer start.
        outer: usize,
    },
    /// Two blocks of one name.
    #[error("line {line}: there is already an evolve block named `{name}`: names must differ")]
    Duplicate {
        /// Line of the second.
        line: usize,
        /// The name.
        name: String,
    },
    /// Marker text that is not a comment line of its own.
    #[error("line {line}: a marker must be a line comment alone on its line, as in `// {START} name`")]
    Misplaced {
        /// Where.
        line: usize,
    },
}

/// Why a child is not an edit of its parent's blocks. Lines are 1-based.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditRefused {
    /// The parent has no usable blocks.
    #[error("the parent: {0}")]
    Parent(MarkerError),
    /// The child has no usable blocks.
    #[error("the child: {0}")]
    Child(MarkerError),
    /// Blocks were added or removed.
    #[error(
        "line {line}: the parent has {parent} evolve blocks, the child {child}: markers must stay as they are"
    )]
    Count {
        /// Blocks of the parent.
        parent: usize,
        /// Blocks of the child.
        child: usize,
        /// Line in the child of the first block that does not fit, or its last line.
        line: usize,
    },
    /// A byte outside the blocks differs.
    #[error(
        "line {line} is outside the evolve blocks and was changed (line {parent_line} of the parent): restore it exactly, {what}"
    )]
    Outside {
        /// Line in the child.
        line: usize,
        /// Line in the parent.
        parent_line: usize,
        /// What kind of difference it is.
        what: &'static str,
    },
    /// The block is not well-formed by itself.
    #[error(
        "the evolve block of line {line} is not well-formed by itself: close every bracket, string and comment inside it"
    )]
    IllFormed {
        /// Line of the start marker in the child.
        line: usize,
    },
    /// The block ends with an attribute, which would fall on what follows it.
    #[error(
        "the evolve block of line {line} ends with an attribute or a doc comment, which would fall on the code after it"
    )]
    DanglingAttribute {
        /// Line of the start marker in the child.
        line: usize,
    },
}

enum Marker {
    Start(Option<String>),
    End,
}

/// The marker on this line, if any; `Err` where marker text is misplaced.
fn marker(line: &str) -> Result<Option<Marker>, ()> {
    if !line.contains(START) && !line.contains(END) {
        return Ok(None);
    }
    let comment = line.trim();
    let text = comment.strip_prefix("//").or_else(|| comment.strip_prefix('#')).ok_or(())?.trim();
    if !text.trim_start_matches(['/', '!', ' ']).starts_with("EVOLVE-BLOCK-") {
        return Ok(None); // a comment that speaks of markers
    }
    if text == END {
        return Ok(Some(Marker::End));
    }
    let rest = text.strip_prefix(START).ok_or(())?;
    if rest.contains(START) || rest.contains(END) || !(rest.is_empty() || rest.starts_with([' ', '\t', ':']))
    {
        return Err(());
    }
    let name = rest.trim_start_matches([' ', '\t', ':']).trim();
    Ok(Some(Marker::Start((!name.is_empty()).then(|| name.to_owned()))))
}

/// The evolve blocks of `source`, in order.
///
/// # Errors
/// When there is none, or when markers are unbalanced, nested, misplaced, or
/// give two blocks one name.
pub fn parse(source: &str) -> Result<Vec<EvolveBlock>, MarkerError> {
    let mut blocks: Vec<EvolveBlock> = Vec::new();
    let mut open: Option<(Option<String>, usize, usize)> = None;
    let mut offset = 0;
    for (index, text) in source.split_inclusive('\n').enumerate() {
        let line = index + 1;
        let begin = offset;
        offset += text.len();
        match (marker(text).map_err(|()| MarkerError::Misplaced { line })?, open.take()) {
            (None, still) => open = still,
            (Some(Marker::Start(_)), Some((_, outer, _))) => {
                return Err(MarkerError::Nested { line, outer });
            }
            (Some(Marker::Start(name)), None) => {
                if let Some(name) =
                    name.as_ref().filter(|n| blocks.iter().any(|b| b.name.as_ref() == Some(n)))
                {
                    return Err(MarkerError::Duplicate { line, name: name.clone() });
                }
                open = Some((name, line, offset));
            }
            (Some(Marker::End), None) => return Err(MarkerError::Unopened { line }),
            (Some(Marker::End), Some((name, line, start))) => {
                blocks.push(EvolveBlock { name, body: start..begin, line });
            }
        }
    }
    match open {
        Some((_, line, _)) => Err(MarkerError::Unclosed { line }),
        None if blocks.is_empty() => Err(MarkerError::None),
        None => Ok(blocks),
    }
}

/// Whether `child` differs from `parent` inside the parent's evolve blocks
/// only.
///
/// # Errors
/// The first reason, with its line.
pub fn check_edit(parent: &str, child: &str) -> Result<(), EditRefused> {
    let old = parse(parent).map_err(EditRefused::Parent)?;
    let new = parse(child).map_err(EditRefused::Child)?;
    let mut last = (0, 0);
    for (a, b) in old.iter().zip(&new) {
        let same = compare(parent, last.0..a.body.start, child, last.1..b.body.start);
        if old.len() != new.len() && same.is_err() {
            return Err(EditRefused::Count { parent: old.len(), child: new.len(), line: b.line });
        }
        same?;
        last = (a.body.end, b.body.end);
    }
    if old.len() != new.len() {
        let line = new.get(old.len()).map_or(child.lines().count(), |b| b.line);
        return Err(EditRefused::Count { parent: old.len(), child: new.len(), line });
    }
    compare(parent, last.0..parent.len(), child, last.1..child.len())?;
    for (a, b) in old.iter().zip(&new) {
        let (before, after) = (&parent[a.body.clone()], &child[b.body.clone()]);
        if before == after {
            continue;
        }
        if let Ok(tokens) = before.parse::<TokenStream>() {
            let dangling = ends_with_attribute(tokens);
            let tokens = after.parse::<TokenStream>().map_err(|_| EditRefused::IllFormed { line: b.line })?;
            if !dangling && ends_with_attribute(tokens) {
                return Err(EditRefused::DanglingAttribute { line: b.line });
            }
        }
    }
    Ok(())
}

fn ends_with_attribute(tokens: TokenStream) -> bool {
    let mut before = [None, None];
    let mut last = None;
    for token in tokens {
        before = [before[1].take(), last.replace(token)];
    }
    let is = |token: &Option<TokenTree>, c| matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == c);
    matches!(&last, Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Bracket)
        && (is(&before[1], '#') || is(&before[1], '!') && is(&before[0], '#'))
}

fn compare(parent: &str, a: Range<usize>, child: &str, b: Range<usize>) -> Result<(), EditRefused> {
    let (old, new) = (&parent.as_bytes()[a.clone()], &child.as_bytes()[b.clone()]);
    if old == new {
        return Ok(());
    }
    let same = old.iter().zip(new).take_while(|(x, y)| x == y).count();
    let line_at = |text: &str, at: usize| 1 + text.as_bytes()[..at].iter().filter(|c| **c == b'\n').count();
    let rest = |bytes: &[u8]| -> Vec<u8> {
        let from = bytes[..same].iter().rposition(|c| *c == b'\n').map_or(0, |p| p + 1);
        bytes[from..].split(|c| *c == b'\n').next().unwrap_or_default().to_vec()
    };
    let (x, y) = (rest(old), rest(new));
    let what = if x.trim_ascii_end() == y.trim_ascii_end() {
        if x.ends_with(b"\r") == y.ends_with(b"\r") {
            "blanks at the end of the line included"
        } else {
            "its line ending (CRLF or LF) included"
        }
    } else {
        "and put changes between the markers"
    };
    Err(EditRefused::Outside {
        line: line_at(child, b.start + same),
        parent_line: line_at(parent, a.start + same),
        what,
    })
}

/// `source` with the body of block `index` replaced by `body`. A line feed is
/// added where `body` lacks its last one, so that the end marker keeps a line
/// of its own; the source's own line ending is used.
///
/// # Errors
/// What [`check_edit`] says about the result, or about the index.
pub fn replace_block(source: &str, index: usize, body: &str) -> Result<String, EditRefused> {
    let blocks = parse(source).map_err(EditRefused::Parent)?;
    let Some(block) = blocks.get(index) else {
        return Err(EditRefused::Count {
            parent: blocks.len(),
            child: index + 1,
            line: source.lines().count(),
        });
    };
    let ending = match source[..block.body.start].ends_with("\r\n") {
        _ if body.is_empty() || body.ends_with('\n') => "",
        true => "\r\n",
        false => "\n",
    };
    let child = [&source[..block.body.start], body, ending, &source[block.body.end..]].concat();
    check_edit(source, &child)?;
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: &str = "//! Between EVOLVE-BLOCK-START and EVOLVE-BLOCK-END anything goes.\nuse x;\n// EVOLVE-BLOCK-START: a\nlet a = 1;\n// EVOLVE-BLOCK-END\nfixed();  \n// EVOLVE-BLOCK-START\nlet b = 2;\n// EVOLVE-BLOCK-END\nend\n";

    #[test]
    fn blocks_have_names_lines_and_bodies() {
        let blocks = parse(TWO).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[0].name.as_deref(), blocks[0].line), (Some("a"), 3));
        assert_eq!((blocks[1].name.as_deref(), blocks[1].line), (None, 7));
        assert_eq!(&TWO[blocks[0].body.clone()], "let a = 1;\n");
    }

    #[test]
    fn wrong_markers_are_named_with_their_line() {
        let error = |text: &str| parse(text).unwrap_err();
        assert_eq!(error("fn main() {}"), MarkerError::None);
        assert_eq!(error("a\n// EVOLVE-BLOCK-START\nb"), MarkerError::Unclosed { line: 2 });
        assert_eq!(error("// EVOLVE-BLOCK-END"), MarkerError::Unopened { line: 1 });
        assert_eq!(
            error("// EVOLVE-BLOCK-START\n// EVOLVE-BLOCK-START\n"),
            MarkerError::Nested { line: 2, outer: 1 }
        );
        assert_eq!(error("f(); // EVOLVE-BLOCK-START"), MarkerError::Misplaced { line: 1 });
        assert_eq!(error("/// EVOLVE-BLOCK-START"), MarkerError::Misplaced { line: 1 });
        assert_eq!(error("// EVOLVE-BLOCK-STARTED"), MarkerError::Misplaced { line: 1 });
        let twice = "// EVOLVE-BLOCK-START a\n// EVOLVE-BLOCK-END\n".repeat(2);
        assert!(matches!(error(&twice), MarkerError::Duplicate { line: 3, .. }));
    }

    #[test]
    fn edits_inside_pass_and_edits_outside_are_refused_with_their_line() {
        assert_eq!(check_edit(TWO, &TWO.replace("a = 1", "a = 100;\nlet c = 5")), Ok(()));
        let refused = |child: &str| check_edit(TWO, child).unwrap_err();
        let outside = refused(&TWO.replace("a = 1;", "a = 1;\n").replace("fixed();", "broken();"));
        assert!(matches!(outside, EditRefused::Outside { line: 7, parent_line: 6, .. }), "{outside}");
        let blanks = refused(&TWO.replace("fixed();  ", "fixed();"));
        assert!(blanks.to_string().contains("blanks"), "{blanks}");
        let ending = refused(&TWO.replace("fixed();  \n", "fixed();  \r\n"));
        assert!(ending.to_string().contains("CRLF"), "{ending}");
        assert!(matches!(refused(TWO.trim_end()), EditRefused::Outside { line: 10, .. }));
        assert!(matches!(refused("nothing"), EditRefused::Child(MarkerError::None)));
    }

    #[test]
    fn a_block_cannot_bring_markers_or_swallow_what_follows() {
        let refused = |body: &str| check_edit(TWO, &TWO.replace("let a = 1;", body)).unwrap_err();
        let markers = refused("// EVOLVE-BLOCK-END\nevil\n// EVOLVE-BLOCK-START");
        assert!(matches!(markers, EditRefused::Count { parent: 2, child: 3, .. }), "{markers}");
        for body in ["/*", "r#\"", "mod m {", "}"] {
            assert_eq!(refused(body), EditRefused::IllFormed { line: 3 }, "{body}");
        }
        for body in ["x; #[cfg(any())]", "x; /// doc"] {
            assert_eq!(refused(body), EditRefused::DanglingAttribute { line: 3 }, "{body}");
        }
        let deep = "(".repeat(300_000) + &")".repeat(300_000);
        assert_eq!(check_edit(TWO, &TWO.replace("let a = 1;", &deep)), Ok(()));
    }

    #[test]
    fn replacing_keeps_the_line_endings_of_the_source() {
        let crlf = TWO.replace('\n', "\r\n");
        assert_eq!(parse(&crlf).unwrap()[0].name.as_deref(), Some("a"));
        let child = replace_block(&crlf, 0, "let z = 3;").unwrap();
        assert!(child.contains("let z = 3;\r\n// EVOLVE-BLOCK-END\r\n"));
        assert_eq!(replace_block(TWO, 1, "").unwrap(), TWO.replace("let b = 2;\n", ""));
        assert!(matches!(replace_block(TWO, 2, ""), Err(EditRefused::Count { .. })));
        assert!(matches!(check_edit(&crlf, TWO), Err(EditRefused::Outside { line: 1, .. })));
    }

    proptest! {
        #[test]
        fn a_replaced_block_reads_back_and_restores(bodies in proptest::collection::vec("[a-z ;=\\t\r\n]{0,40}", 1..5),
                                                    outside in "[ -.0-~\r\n\t]{0,60}", new in "[a-z ;\r\n]{0,40}", crlf in any::<bool>()) {
            let nl = if crlf { "\r\n" } else { "\n" };
            let mut source = format!("{outside}{nl}");
            for body in &bodies {
                source += &format!("  // EVOLVE-BLOCK-START \t{nl}{body}{nl}\t// EVOLVE-BLOCK-END{nl}{outside}{nl}");
            }
            let blocks = parse(&source).unwrap();
            prop_assert_eq!(blocks.len(), bodies.len());
            let index = bodies.len() / 2;
            let old = &source[blocks[index].body.clone()];
            let child = replace_block(&source, index, &new).unwrap();
            let read = &child[parse(&child).unwrap()[index].body.clone()];
            prop_assert_eq!(read.trim_end_matches(['\r', '\n']), new.trim_end_matches(['\r', '\n']));
            prop_assert_eq!(replace_block(&child, index, old).unwrap(), source);
        }

        #[test]
        fn any_text_is_answered(parent in "(// EVOLVE-BLOCK-(START|END)[ a-c]{0,2}|[a-c\"/*{}]{0,5}|\r|\n){0,12}", child in "(// EVOLVE-BLOCK-(START|END)|[ -~]{0,5}|\n){0,12}") {
            let _ = check_edit(&parent, &child);
            let _ = replace_block(&parent, 0, &child);
            if parse(&parent).is_ok() { prop_assert_eq!(check_edit(&parent, &parent), Ok(())); }
        }
    }
}
