//! A change as agents write it down, and how it becomes a draft.
//!
//! Everything here comes from outside and is bounded: a change that does not
//! fit its parent is refused with words that help to make a better one.

use super::HistoryEntry;
use super::agent::Draft;
use super::moves::{Move, worded};
use crate::evolve_block;
use crate::ids::CandidateId;
use crate::task::MAX_TEXT_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use terrarium_sandbox::{KnobRange, KnobValue, Knobs};

/// Most edits, blocks or knobs of one change.
const MOST_PARTS: usize = 64;
/// Beginnings of objects in an answer that are looked at.
const MOST_OBJECTS: usize = 64;
/// Longest note that is made of knobs.
const MAX_NOTE: usize = 160;

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
    /// Knobs. Read also from `{"NAME": VALUE}`.
    #[serde(deserialize_with = "list_or_map")]
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

/// The JSON schema of a change to a parent that declares these knobs and has
/// these evolve blocks. Names and options are listed and ranges given, so that
/// a server that enforces it answers with nothing else.
pub fn schema(space: &[(String, KnobRange)], blocks: &[String]) -> Value {
    let text = json!({ "type": "string" });
    let edit = object(json!({ "search": text, "replace": text }), json!(["search", "replace"]));
    let block_name = json!({ "type": "string", "enum": blocks });
    let block = object(json!({ "name": block_name, "body": text }), json!(["name", "body"]));
    let list = |items: Value| json!({ "type": "array", "items": items });
    let mut properties = json!({ "note": text, "edits": list(edit) });
    let mut required = vec!["note", "edits"];
    if !blocks.is_empty() {
        properties["blocks"] = list(block);
        required.push("blocks");
    }
    let knobs: Vec<Value> =
        space.iter().take(MOST_PARTS).map(|(name, range)| knob_schema(name, range)).collect();
    if !knobs.is_empty() {
        properties["knobs"] = list(json!({ "anyOf": knobs }));
        required.push("knobs");
    }
    object(properties, json!(required))
}

/// The JSON schema of one to three of these moves, and nothing else.
pub fn moves_schema(moves: &[Move<'_>]) -> Value {
    let each: Vec<Value> = moves.iter().map(Move::schema).collect();
    // No words: weak models do not stop before the answer is cut off.
    let knobs = json!({ "type": "array", "items": { "anyOf": each }, "minItems": 1, "maxItems": 3 });
    object(json!({ "knobs": knobs }), json!(["knobs"]))
}

fn object(properties: Value, required: Value) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn knob_schema(name: &str, range: &KnobRange) -> Value {
    let value = match range {
        KnobRange::Number { low, high, .. } => json!({ "type": "number", "minimum": low, "maximum": high }),
        KnobRange::Integer { low, high, .. } => json!({ "type": "integer", "minimum": low, "maximum": high }),
        KnobRange::Choice { options, .. } => json!({ "type": "string", "enum": options }),
    };
    let name = json!({ "type": "string", "enum": [name] });
    object(json!({ "name": name, "value": value }), json!(["name", "value"]))
}

/// Knobs as a list of changes or as a map of values.
fn list_or_map<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<KnobChange>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<KnobChange>),
        Map(serde_json::Map<String, Value>),
        None(()),
    }
    Ok(match Either::deserialize(from)? {
        Either::List(list) => list,
        Either::Map(map) => map.into_iter().map(|(name, value)| KnobChange { name, value }).collect(),
        Either::None(()) => Vec::new(),
    })
}

impl Change {
    /// Reads a change from an answer: JSON, perhaps with words or a code fence
    /// around it.
    ///
    /// # Errors
    /// What is wrong with the first object in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text, &[])
    }

    /// As [`Self::parse`]; also understands `{"name": …, "value": …}` alone,
    /// and `{"KNOB": VALUE}` with knobs of this space.
    ///
    /// # Errors
    /// What is wrong with the first object in it.
    pub fn read(text: &str, space: &[(String, KnobRange)]) -> Result<Self, String> {
        let mut first = None;
        for (start, _) in text.match_indices('{').take(MOST_OBJECTS) {
            let mut stream = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
            let change = match stream.next() {
                Some(Ok(value)) => {
                    Self::of(value, space).map_err(|e| format!("the answer is not a change: {e}"))
                }
                Some(Err(error)) => Err(format!("the answer is not a change: {error}")),
                None => continue,
            };
            match change {
                Ok(change) if change != Self::default() => return Ok(change),
                other => drop(first.get_or_insert(other)),
            }
        }
        first.unwrap_or_else(|| Err("the answer holds no JSON object".into()))
    }

    fn of(value: Value, space: &[(String, KnobRange)]) -> serde_json::Result<Self> {
        let Value::Object(fields) = &value else {
            return serde_json::from_value(value);
        };
        let bare = |(name, value): (&String, &Value)| {
            let known = space.iter().any(|(knob, _)| knob == name);
            known.then(|| KnobChange { name: name.clone(), value: value.clone() })
        };
        let knobs = match (fields.get("name"), fields.get("value")) {
            (Some(Value::String(name)), Some(value)) => {
                vec![KnobChange { name: name.clone(), value: value.clone() }]
            }
            _ => fields.iter().filter_map(bare).collect(),
        };
        let change: Self = serde_json::from_value(value)?;
        Ok(if change == Self::default() { Self { knobs, ..change } } else { change })
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
        let mut told = Vec::new();
        for change in &self.knobs {
            let (range, value) = knob(change, space)?;
            let now = parent.knobs.get(&change.name).cloned().unwrap_or_else(|| default(range));
            if now != value {
                told.push(format!("{} {} → {}", change.name, worded(range, &now), worded(range, &value)));
                knobs.insert(change.name.clone(), value);
            }
        }
        if source.is_none() && knobs.is_empty() {
            return Err("nothing is changed".into());
        }
        let parent = match self.parent {
            None => None,
            Some(id) => Some(CandidateId::try_from(id).map_err(|e| e.to_string())?),
        };
        let note = match self.note.is_empty() && source.is_none() {
            true => told.join(", ").chars().take(MAX_NOTE).collect(),
            false => self.note,
        };
        Ok(Draft { source, knobs, parent, operator: operator.into(), note, ..Draft::default() })
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
fn knob<'a>(
    change: &KnobChange,
    space: &'a [(String, KnobRange)],
) -> Result<(&'a KnobRange, KnobValue), String> {
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
    Ok((range, value))
}

fn default(range: &KnobRange) -> KnobValue {
    match range {
        KnobRange::Number { default, .. } => KnobValue::Number(*default),
        KnobRange::Integer { default, .. } => KnobValue::Integer(*default),
        KnobRange::Choice { default, .. } => KnobValue::Choice(*default),
    }
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
        Change::read(json, &space)?.draft(&entry(SOURCE), &space)
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
        assert_eq!((knobs.source, &*knobs.note), (None, "lr 0.1 → 1.0, kind a → b"));
    }

    #[test]
    fn the_ways_in_which_weak_models_write_knobs_are_understood() {
        for text in [
            r#"{"knobs":[{"name":"lr","value":"0.5"}]}"#,
            r#"{"knobs":{"lr":0.5}}"#,
            r#"Here it is: {"lr": 0.5}. I hope that it helps."#,
            r#"{"name":"lr","value":0.5}"#,
            r#"fn main() {} {"knobs":{"lr":0.5}}"#,
        ] {
            let knobs = draft(text).unwrap_or_else(|e| panic!("{text}: {e}")).knobs;
            assert_eq!(knobs, Knobs::from([("lr".into(), KnobValue::Number(0.5))]), "{text}");
        }
        // The default, written down, is no change.
        assert_eq!(draft(r#"{"lr": 0.1}"#).unwrap_err(), "nothing is changed");
    }

    #[test]
    fn a_schema_names_what_there_is() {
        let number = KnobRange::Number { default: 0.1, low: 0.0, high: 1.0, scale: KnobScale::Linear };
        let choice = KnobRange::Choice { default: 0, options: vec!["a".into(), "b".into()] };
        let schema = schema(&[("lr".into(), number), ("kind".into(), choice)], &["main".into()]);
        let knobs = &schema["properties"]["knobs"]["items"]["anyOf"];
        assert_eq!(
            knobs[0]["properties"]["value"],
            json!({ "type": "number", "minimum": 0.0, "maximum": 1.0 })
        );
        assert_eq!(knobs[1]["properties"]["value"]["enum"], json!(["a", "b"]));
        assert_eq!(schema["properties"]["blocks"]["items"]["properties"]["name"]["enum"], json!(["main"]));
        let bare = super::schema(&[], &[]);
        assert_eq!(bare["required"], json!(["note", "edits"]));
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
