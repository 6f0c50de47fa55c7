//! Values that a knob could be given next: a ladder over its range and small
//! steps from where it stands. A model that chooses from these cannot propose
//! what is out of range, what is there already, or what was tried alone from
//! the same parent.

use super::knobs::space::Space;
use super::{History, HistoryEntry};
use crate::seeds::SplitMix64;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use terrarium_sandbox::{KnobRange, KnobValue};

/// Entries of the history that are looked at for what was tried.
const LATEST: usize = 10_000;
/// Rungs of the ladder over a range, both ends included.
const RUNGS: u32 = 7;
/// Steps from the present value, as parts of the (warped) range.
const STEPS: [f64; 6] = [-0.2, -0.08, -0.03, 0.03, 0.08, 0.2];

/// A knob that may be changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Move<'a> {
    /// Its name.
    pub name: &'a str,
    /// As it is declared.
    pub range: &'a KnobRange,
    /// Its value in the parent.
    pub now: KnobValue,
    /// What it may be changed to, in order; never empty.
    pub values: Vec<KnobValue>,
}

/// The knobs that can be moved from `parent`, in the order of declaration.
pub fn moves<'a>(history: &History<'a>, parent: &HistoryEntry) -> Vec<Move<'a>> {
    let space = Space::new(history.knob_space);
    let tried: Vec<&HistoryEntry> = history
        .entries
        .iter()
        .rev()
        .take(LATEST)
        .filter(|e| e.source_id == parent.source_id && e.parent.is_some())
        .collect();
    let dimensions = space.dimensions();
    let here: Vec<KnobValue> = (0..dimensions).map(|axis| space.effective(axis, &parent.knobs)).collect();
    // Alone: everything else as in the parent.
    let mut done: Vec<Vec<KnobValue>> = vec![Vec::new(); dimensions];
    for entry in tried {
        let mut differing = (0..dimensions).filter_map(|axis| {
            let value = space.effective(axis, &entry.knobs);
            (value != here[axis]).then_some((axis, value))
        });
        if let (Some((axis, value)), None) = (differing.next(), differing.next()) {
            done[axis].push(value);
        }
    }
    (0..dimensions)
        .filter_map(|axis| {
            let (name, range) = space.axis(axis);
            let now = here[axis].clone();
            let mut values = ladder(&space, axis, &now);
            values.retain(|value| *value != now && !done[axis].contains(value));
            (!values.is_empty()).then_some(Move { name, range, now, values })
        })
        .collect()
}

/// Of these, as many as their lines fit into `bytes`, by chance; the order
/// stays.
pub fn drawn(all: Vec<Move<'_>>, bytes: usize, most: usize, seed: u64) -> Vec<Move<'_>> {
    let mut rng = SplitMix64::new(seed);
    let mut order: Vec<usize> = (0..all.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, rng.below(last + 1));
    }
    let mut left = bytes;
    let mut chosen = BTreeSet::new();
    for at in order {
        let length = all[at].line().len() + 1;
        if chosen.len() == most || length > left {
            continue;
        }
        left -= length;
        chosen.insert(at);
    }
    all.into_iter().enumerate().filter(|(at, _)| chosen.contains(at)).map(|(_, one)| one).collect()
}

fn ladder(space: &Space<'_>, axis: usize, now: &KnobValue) -> Vec<KnobValue> {
    match space.axis(axis).1 {
        KnobRange::Choice { options, .. } => {
            return (0..options.len().min(64) as u32).map(KnobValue::Choice).collect();
        }
        KnobRange::Integer { low, high, .. } if high.abs_diff(*low) <= 12 => {
            return (*low..=*high).map(KnobValue::Integer).collect();
        }
        _ => {}
    }
    let here = space.unit(axis, now);
    let rungs = (0..RUNGS).map(|rung| f64::from(rung) / f64::from(RUNGS - 1));
    let steps = STEPS.iter().map(|step| here + step).filter(|u| (0.0..=1.0).contains(u));
    let mut units: Vec<f64> = rungs.chain(steps).collect();
    units.sort_by(f64::total_cmp);
    let mut values: Vec<KnobValue> = units.into_iter().map(|u| space.value(axis, u)).collect();
    values.dedup();
    values
}

impl Move<'_> {
    /// Its line in a prompt, without a line break.
    pub fn line(&self) -> String {
        let name = plain(self.name, 64);
        match self.range {
            KnobRange::Number { low, high, .. } => {
                format!("- `{name}` = {}, a number from {low} to {high}", self.words(&self.now))
            }
            KnobRange::Integer { low, high, .. } => {
                format!("- `{name}` = {}, a whole number from {low} to {high}", self.words(&self.now))
            }
            KnobRange::Choice { options, .. } => {
                let names: Vec<String> = options.iter().map(|o| format!("`{}`", plain(o, 32))).collect();
                format!("- `{name}` = {}, one of {}", self.words(&self.now), names.join(", "))
            }
        }
    }

    fn words(&self, value: &KnobValue) -> String {
        worded(self.range, value)
    }

    /// The schema of this one change.
    pub fn schema(&self) -> Value {
        let values: Vec<Value> = self.values.iter().map(|value| written(self.range, value)).collect();
        let kind = match self.range {
            KnobRange::Number { .. } => "number",
            KnobRange::Integer { .. } => "integer",
            KnobRange::Choice { .. } => "string",
        };
        json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "enum": [self.name] },
                "value": { "type": kind, "enum": values },
            },
            "required": ["name", "value"],
            "additionalProperties": false,
        })
    }
}

/// A value as it stands in JSON: an option by its name.
fn written(range: &KnobRange, value: &KnobValue) -> Value {
    match (range, value) {
        (_, KnobValue::Number(x)) => json!(x),
        (_, KnobValue::Integer(x)) => json!(x),
        (KnobRange::Choice { options, .. }, KnobValue::Choice(x)) => {
            options.get(*x as usize).map_or(json!(x), |name| json!(name))
        }
        (_, KnobValue::Choice(x)) => json!(x),
    }
}

/// A value in words, an option by its name; hostile text made plain.
pub fn worded(range: &KnobRange, value: &KnobValue) -> String {
    match written(range, value) {
        Value::String(name) => plain(&name, 32),
        other => other.to_string(),
    }
}

/// One line of hostile text, without quotes that could end its own.
pub fn plain(text: &str, most: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    let mark = |c: char| match c {
        '"' | '`' => '\'',
        c => c,
    };
    first.chars().filter(|c| !c.is_control()).map(mark).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proposer::mutate::tests::{SOURCE, entry, history};
    use terrarium_sandbox::{KnobScale, Knobs};

    fn space() -> Vec<(String, KnobRange)> {
        vec![
            (
                "rate".into(),
                KnobRange::Number { default: 0.01, low: 0.001, high: 0.1, scale: KnobScale::Logarithmic },
            ),
            ("depth".into(), KnobRange::Integer { default: 3, low: 1, high: 8, scale: KnobScale::Linear }),
            (
                "width".into(),
                KnobRange::Integer { default: 64, low: 8, high: 512, scale: KnobScale::Logarithmic },
            ),
            ("kind".into(), KnobRange::Choice { default: 0, options: vec!["a\"".into(), "b".into()] }),
            ("fixed".into(), KnobRange::Integer { default: 1, low: 1, high: 1, scale: KnobScale::Linear }),
        ]
    }

    #[test]
    fn moves_are_in_range_new_and_not_what_was_tried() {
        let space = space();
        let parent = entry(SOURCE);
        let with = |name: &str, value: KnobValue| {
            let mut child = entry(SOURCE);
            child.parent = Some(parent.candidate.clone());
            child.knobs = Knobs::from([(name.to_owned(), value)]);
            child
        };
        let mut both = with("depth", KnobValue::Integer(7));
        both.knobs.insert("width".into(), KnobValue::Integer(8));
        let entries =
            [parent.clone(), with("depth", KnobValue::Integer(4)), with("kind", KnobValue::Choice(1)), both];
        let history = History { knob_space: &space, ..history(&entries) };
        let found = moves(&history, &parent);
        let names: Vec<&str> = found.iter().map(|m| m.name).collect();
        assert_eq!(names, ["rate", "depth", "width"], "`kind` is exhausted, `fixed` cannot move");
        let depth: Vec<KnobValue> = [1, 2, 5, 6, 7, 8].map(KnobValue::Integer).to_vec();
        assert_eq!(found[1].values, depth);
        assert!(found[0].values.len() >= 8 && found[2].values.len() >= 8);
        for value in &found[0].values {
            let KnobValue::Number(x) = value else { panic!("{value:?}") };
            assert!((0.001..=0.1).contains(x) && *x != 0.01);
        }
        assert_eq!(
            found[1].schema()["properties"]["value"],
            json!({ "type": "integer", "enum": [1, 2, 5, 6, 7, 8] })
        );
        assert_eq!(found[1].line(), "- `depth` = 3, a whole number from 1 to 8");
    }

    #[test]
    fn a_draw_keeps_to_its_bytes_and_its_order() {
        let space = space();
        let parent = entry(SOURCE);
        let entries = [parent.clone()];
        let history = History { knob_space: &space, ..history(&entries) };
        let all = moves(&history, &parent);
        let mut sets = BTreeSet::new();
        for (bytes, seed) in (0..400).step_by(7).zip(0u64..) {
            let few = drawn(all.clone(), bytes, 3, seed);
            assert!(few.iter().map(|m| m.line().len() + 1).sum::<usize>() <= bytes && few.len() <= 3);
            let mut rest = all.iter();
            assert!(few.iter().all(|one| rest.any(|other| other == one)));
            sets.insert(few.iter().map(|m| m.name).collect::<Vec<_>>());
        }
        assert!(sets.len() > 5, "the same knobs each time: {sets:?}");
    }
}
