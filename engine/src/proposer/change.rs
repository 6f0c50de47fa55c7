//! A change as agents write it down, and how it becomes a draft.
//!
//! Everything here comes from outside and is bounded: a change that does not
//! fit its parent is refused with words that help to make a better one.

use super::HistoryEntry;
use super::agent::Draft;
use crate::evolve_block;
use crate::ids::CandidateId;
use crate::task::MAX_TEXT_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use terrarium_sandbox::{KnobRange, KnobValue, Knobs};

/// Most edits, blocks or knobs of one change.
const MOST_PARTS: usize = 64;

/// A text that is replaced by another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// What stands there; it must occur exactly once.
    pub search: String,
    /// What is to stand there.
    pub replace: String,
}

/// A whole evolve block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its name, or its number from 1.
    pub name: String,
    /// What is to stand between its markers.
    pub body: String,
}

/// A knob's new value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KnobChange {
    /// The knob.
    pub name: String,
    /// A number, or an option's name.
    pub value: Value,
}

/// A change: some of these parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// What is changed and why, in a line.
    pub note: String,
    /// Knobs.
    pub knobs: Vec<KnobChange>,
    /// Search and replace, in order.
    pub edits: Vec<Edit>,
    /// Whole blocks.
    pub blocks: Vec<Block>,
    /// The whole source.
    pub source: Option<String>,
    /// The parent's id, if another than the one that was offered.
    pub parent: Option<String>,
}

/// The JSON schema of a change for a parent with these knobs. `knobs_only`
/// leaves out the source.
pub fn schema(space: &[(String, KnobRange)], knobs_only: bool) -> Value {
    let text = json!({ "type": "string" });
    let names: Vec<&str> = space.iter().map(|(name, _)| name.as_str()).take(MOST_PARTS).collect();
    let object = |properties: Value, required: Value| json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let knob_name = if names.is_empty() { text.clone() } else { json!({ "type": "string", "enum": names }) };
    let knob = object(
        json!({ "name": knob_name, "value": { "type": ["number", "string"] } }),
        json!(["name", "value"]),
    );
    let edit = object(json!({ "search": text, "replace": text }), json!(["search", "replace"]));
    let block = object(json!({ "name": text, "body": text }), json!(["name", "body"]));
    let list = |items: Value| json!({ "type": "array", "items": items });
    if knobs_only {
        let knobs = json!({ "type": "array", "items": knob, "minItems": 1, "maxItems": 4 });
        // No words: weak models do not stop before the answer is cut off.
        return object(json!({ "knobs": knobs }), json!(["knobs"]));
    }
    object(
        json!({ "note": text, "knobs": list(knob), "edits": list(edit), "blocks": list(block) }),
        json!(["note", "knobs", "edits", "blocks"]),
    )
}

impl Change {
    /// Reads a change from an answer: JSON, perhaps with words or a code fence
    /// around it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let start = text.find('{').ok_or("the answer holds no JSON object")?;
        let mut stream = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Self>();
        match stream.next() {
            Some(Ok(change)) => Ok(change),
            Some(Err(error)) => Err(format!("the answer is not a change: {error}")),
            None => Err("the answer holds no JSON object".into()),
        }
    }

    /// The change applied to its parent.
    pub fn draft(self, parent: &HistoryEntry, space: &[(String, KnobRange)]) -> Result<Draft, String> {
        let parts = [self.knobs.len(), self.edits.len(), self.blocks.len()];
        if parts.iter().any(|n| *n > MOST_PARTS) {
            return Err(format!("more than {MOST_PARTS} parts: make a smaller change"));
        }
        let mut operator = "knobs";
        let mut source = None;
        if let Some(whole) = self.source {
            operator = "source";
            source = Some(whole);
        }
        for block in self.blocks {
            operator = "block";
            let text = source.as_deref().unwrap_or(&parent.source);
            let blocks = evolve_block::parse(text).map_err(|e| e.to_string())?;
            let by_name = blocks.iter().position(|b| b.name.as_deref() == Some(block.name.trim()));
            let by_number = block
                .name
                .trim()
                .parse::<usize>()
                .ok()
                .and_then(|n| n.checked_sub(1))
                .filter(|n| *n < blocks.len());
            let only = (blocks.len() == 1).then_some(0);
            let index = by_name.or(by_number).or(only).ok_or_else(|| {
                let known: Vec<&str> = blocks.iter().filter_map(|b| b.name.as_deref()).collect();
                format!("there is no evolve block `{}`; there are: {}", block.name.trim(), known.join(", "))
            })?;
            source = Some(evolve_block::replace_block(text, index, &block.body).map_err(|e| e.to_string())?);
        }
        for (number, edit) in (1..).zip(self.edits) {
            operator = "diff";
            let text = source.as_deref().unwrap_or(&parent.source);
            source = Some(applied(text, &edit).map_err(|what| format!("edit {number}: {what}"))?);
        }
        if source.as_ref().is_some_and(|s| s.len() as u64 > MAX_TEXT_BYTES) {
            return Err(format!("the source would be longer than {MAX_TEXT_BYTES} bytes"));
        }
        let source = source.filter(|s| **s != *parent.source);
        let mut knobs = Knobs::new();
        for change in &self.knobs {
            let (name, value) = knob(change, space)?;
            if parent.knobs.get(&name) != Some(&value) {
                knobs.insert(name, value);
            }
        }
        if source.is_none() && knobs.is_empty() {
            return Err("nothing is changed".into());
        }
        let parent = match self.parent {
            None => None,
            Some(id) => Some(CandidateId::try_from(id).map_err(|e| e.to_string())?),
        };
        Ok(Draft { source, knobs, parent, operator: operator.into(), note: self.note, ..Draft::default() })
    }
}

/// The text with an edit applied, inside the evolve blocks.
fn applied(text: &str, edit: &Edit) -> Result<String, String> {
    if edit.search.is_empty() {
        return Err("the text to search for is empty".into());
    }
    let blocks = evolve_block::parse(text).map_err(|e| e.to_string())?;
    let inside = |from: usize, to: usize| blocks.iter().any(|b| b.body.start <= from && to <= b.body.end);
    let found: Vec<(usize, usize)> = text
        .match_indices(&edit.search)
        .map(|(at, hit)| (at, at + hit.len()))
        .filter(|(from, to)| inside(*from, *to))
        .collect();
    let found = if found.is_empty() { by_lines(text, &edit.search, &inside) } else { found };
    match found[..] {
        [(from, to)] => {
            let trailing = text[from..to].ends_with('\n') && !edit.replace.ends_with('\n');
            let ending = if trailing && !edit.search.ends_with('\n') { "\n" } else { "" };
            Ok([&text[..from], &edit.replace, ending, &text[to..]].concat())
        }
        [] => Err("the text to search for does not occur inside an evolve block".into()),
        _ => Err(format!(
            "the text to search for occurs {} times: take more of what is around it",
            found.len()
        )),
    }
}

/// Where the lines of `search` stand in `text`, blanks around lines aside:
/// models often get the indentation wrong.
fn by_lines(text: &str, search: &str, inside: &dyn Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let wanted: Vec<&str> = search.trim_matches('\n').lines().map(str::trim).collect();
    let mut lines: Vec<(usize, &str)> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        lines.push((at, line));
        at += line.len();
    }
    if wanted.iter().all(|w| w.is_empty()) {
        return Vec::new();
    }
    lines
        .windows(wanted.len())
        .filter(|window| window.iter().zip(&wanted).all(|((_, line), want)| line.trim() == *want))
        .filter_map(|window| {
            let (from, last) = (window.first()?.0, window.last()?);
            let to = last.0 + last.1.len();
            inside(from, to).then_some((from, to))
        })
        .collect()
}

/// A knob's value within its declared range.
fn knob(change: &KnobChange, space: &[(String, KnobRange)]) -> Result<(String, KnobValue), String> {
    let Some((name, range)) = space.iter().find(|(name, _)| *name == change.name) else {
        let known: Vec<&str> = space.iter().map(|(name, _)| name.as_str()).take(MOST_PARTS).collect();
        let asked: String = change.name.chars().take(64).collect();
        return Err(format!("there is no knob `{asked}`; there are: {}", known.join(", ")));
    };
    let number = match &change.value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|n: &f64| n.is_finite());
    let value = match range {
        KnobRange::Number { low, high, .. } => {
            KnobValue::Number(number.ok_or(format!("knob `{name}` needs a number"))?.clamp(*low, *high))
        }
        KnobRange::Integer { low, high, .. } => {
            let n = number.ok_or(format!("knob `{name}` needs a whole number"))?;
            KnobValue::Integer((n.round() as i64).clamp(*low, *high))
        }
        KnobRange::Choice { options, .. } => {
            let by_name = change.value.as_str().and_then(|s| options.iter().position(|o| o == s.trim()));
            let by_number = number.filter(|n| *n >= 0.0 && *n < options.len() as f64).map(|n| n as usize);
            let option = by_name
                .or(by_number)
                .ok_or_else(|| format!("knob `{name}` is one of: {}", options.join(", ")))?;
            KnobValue::Choice(option.try_into().map_err(|_| "too many options".to_owned())?)
        }
    };
    Ok((name.clone(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proposer::mutate::tests::{SOURCE, entry};
    use terrarium_sandbox::KnobScale;

    fn draft(json: &str) -> Result<Draft, String> {
        let number = KnobRange::Number { default: 0.1, low: 0.0, high: 1.0, scale: KnobScale::Linear };
        let choice = KnobRange::Choice { default: 0, options: vec!["a".into(), "b".into()] };
        let space = vec![("lr".to_owned(), number), ("kind".to_owned(), choice)];
        Change::parse(json)?.draft(&entry(SOURCE), &space)
    }

    #[test]
    fn edits_blocks_and_knobs_become_a_draft() {
        let diff = draft(r#"{"note":"n","edits":[{"search":"v * 0.7","replace":"v * 0.8"}]}"#).unwrap();
        assert_eq!(diff.source.as_deref(), Some(&*SOURCE.replace("v * 0.7", "v * 0.8")));
        assert_eq!(diff.operator, "diff");
        let indented = r#"{"edits":[{"search":"if a < b && a2 >= 0.25 {\n a += vec![1.0, 2.0][0];","replace":"    if true {"}]}"#;
        let child = draft(indented).unwrap().source.unwrap();
        assert!(child.contains("    if true {\n        a *= scale"), "{child}");
        let block = "Sure! ```json\n{\"blocks\":[{\"name\":\"other\",\"body\":\"fn scale(v: f32, on: bool) -> f32 { v }\"}]}\n```";
        assert!(draft(block).unwrap().source.unwrap().contains("{ v }\n// EVOLVE-BLOCK-END"));
        let knobs = draft(r#"{"knobs":[{"name":"lr","value":7},{"name":"kind","value":"b"}]}"#).unwrap();
        assert_eq!(knobs.knobs["lr"], KnobValue::Number(1.0));
        assert_eq!(knobs.knobs["kind"], KnobValue::Choice(1));
        assert_eq!(knobs.source, None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_words() {
        for (json, what) in [
            ("no", "no JSON"),
            ("{\"edits\": 3}", "not a change"),
            ("{}", "nothing is changed"),
            (r#"{"edits":[{"search":"fn fixed","replace":""}]}"#, "does not occur inside"),
            (r#"{"edits":[{"search":"a","replace":"b"}]}"#, "times"),
            (r#"{"edits":[{"search":"","replace":"b"}]}"#, "empty"),
            (r#"{"blocks":[{"name":"none","body":""}]}"#, "there are: main, other"),
            (r#"{"blocks":[{"name":"main","body":"/*"}]}"#, "well-formed"),
            (r#"{"knobs":[{"name":"x","value":1}]}"#, "there are: lr, kind"),
            (r#"{"knobs":[{"name":"lr","value":"fast"}]}"#, "needs a number"),
            (r#"{"knobs":[{"name":"kind","value":2}]}"#, "one of: a, b"),
            (r#"{"source":"x","parent":"../x"}"#, "not an id"),
        ] {
            let error = draft(json).unwrap_err();
            assert!(error.contains(what), "{json}: {error}");
        }
    }
}
