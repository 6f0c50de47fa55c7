//! Knob values out of prose, for servers that do not hold a model to a schema.
//!
//! A weak model that was asked for JSON may answer "I would change the depth
//! to 4". What is read here is only ever one of the knobs that were offered,
//! with a number or an option after its name; everything else is refused as
//! before.

use crate::proposer::change::{Change, KnobChange};
use crate::proposer::moves::Move;
use serde_json::{Value, json};
use terrarium_sandbox::{KnobRange, KnobValue};

/// How far behind a knob's name its value is looked for, in bytes.
const REACH: usize = 64;
/// Most knobs of one change: as in the schema.
const MOST: usize = 3;

/// The change that these words describe, if they do.
pub fn change(text: &str, moves: &[Move<'_>]) -> Option<Change> {
    let mut found: Vec<(usize, KnobChange)> = Vec::new();
    for one in moves {
        let value = text
            .match_indices(one.name)
            .filter(|(at, name)| stands_alone(text, *at, name.len()))
            .find_map(|(at, name)| Some((at, value(one, reach(text, at + name.len()))?)));
        if let Some((at, value)) = value {
            found.push((at, KnobChange { name: one.name.to_owned(), value }));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    let knobs: Vec<KnobChange> = found.into_iter().map(|(_, change)| change).take(MOST).collect();
    (!knobs.is_empty()).then(|| Change { knobs, ..Change::default() })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn stands_alone(text: &str, at: usize, length: usize) -> bool {
    let before = text[..at].chars().next_back().is_some_and(is_word);
    let after = text[at + length..].chars().next().is_some_and(is_word);
    !before && !after
}

/// What follows, to the end of its line.
fn reach(text: &str, from: usize) -> &str {
    let rest = text[from..].lines().next().unwrap_or_default();
    let mut end = rest.len().min(REACH);
    while !rest.is_char_boundary(end) {
        end -= 1;
    }
    &rest[..end]
}

/// The first value in `text` that the knob does not have already.
fn value(one: &Move<'_>, text: &str) -> Option<Value> {
    let part = |c: char| is_word(c) || matches!(c, '.' | '-' | '+');
    let mut tokens =
        text.split(|c: char| !part(c)).map(|t| t.trim_end_matches('.')).filter(|t| !t.is_empty());
    if let KnobRange::Choice { options, .. } = one.range {
        let now = if let KnobValue::Choice(now) = &one.now { options.get(*now as usize) } else { None };
        return tokens.find_map(|t| options.iter().find(|o| *o == t && Some(*o) != now)).map(|o| json!(o));
    }
    let now = match &one.now {
        KnobValue::Number(x) => *x,
        KnobValue::Integer(x) => *x as f64,
        KnobValue::Choice(_) => return None,
    };
    tokens.filter_map(|t| t.parse::<f64>().ok()).find(|x| x.is_finite() && *x != now).map(|x| json!(x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use terrarium_sandbox::KnobScale;

    #[test]
    fn prose_about_knobs_that_were_offered_is_read_and_other_prose_is_not() {
        let depth = KnobRange::Integer { default: 3, low: 1, high: 8, scale: KnobScale::Linear };
        let kind = KnobRange::Choice { default: 0, options: vec!["none".into(), "all".into()] };
        let moves = [
            Move {
                name: "depth",
                range: &depth,
                now: KnobValue::Integer(3),
                values: vec![KnobValue::Integer(4)],
            },
            Move {
                name: "kind",
                range: &kind,
                now: KnobValue::Choice(0),
                values: vec![KnobValue::Choice(1)],
            },
        ];
        let read = |text: &str| {
            let knobs = change(text, &moves).unwrap_or_default().knobs;
            knobs.into_iter().map(|k| format!("{}={}", k.name, k.value)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(read("You can try changing the depth of the model from 3 to 4."), "depth=4.0");
        assert_eq!(read("1. Update: depth = 5 (2.5 to 8)\n2. kind: `all`"), "depth=5.0 kind=\"all\"");
        assert_eq!(read("`kind` = none, so the depth\nstays"), "");
        assert_eq!(read("in_depth = 4, depths 5, width 6, depth inf NaN 1e999"), "");
        assert_eq!(read("depth … und öfter … ƒ"), "");
        assert_eq!(change("", &moves), None);
    }
}
