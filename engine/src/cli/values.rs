//! Values on the command line.

use std::time::Duration;
use terrarium_sandbox::{KnobRange, KnobValue, Knobs, Limits};

use super::failure::Failure;

/// `90s`, `10m`, `2h`, or seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| c.is_alphabetic()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let scale = match unit {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time; use s, m or h")),
    };
    let value: f64 = number.trim().parse().map_err(|_| format!("`{number}` is no number"))?;
    let seconds = value * scale;
    if !(seconds > 0.0 && seconds <= 1e9) {
        return Err("the time must be more than zero and at most 1e9 seconds".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A whole number, such as `2_000_000` or `2e12`.
pub fn amount(text: &str) -> Result<u64, String> {
    let plain = text.replace('_', "");
    if let Ok(whole) = plain.parse() {
        return Ok(whole);
    }
    let value: f64 = plain.parse().map_err(|_| format!("`{text}` is no whole number"))?;
    match value.fract() == 0.0 && (1.0..=9e18).contains(&value) {
        true => Ok(value as u64),
        false => Err(format!("`{text}` is no whole number from 1 to 9e18")),
    }
}

/// `name=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    if name.is_empty() || value.is_empty() {
        return Err(format!("`{text}` is not NAME=VALUE"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Knob values: whole numbers, numbers, or `#k` for the k-th option of a choice.
pub fn knobs(pairs: &[(String, String)]) -> Result<Knobs, Failure> {
    let mut knobs = Knobs::new();
    for (name, text) in pairs {
        let value = if let Some(option) = text.strip_prefix('#') {
            option.parse().ok().map(KnobValue::Choice)
        } else if let Ok(whole) = text.parse::<i64>() {
            Some(KnobValue::Integer(whole))
        } else {
            text.parse::<f64>().ok().filter(|v| v.is_finite()).map(KnobValue::Number)
        };
        let Some(value) = value else {
            return Err(Failure::usage(
                format!("--knob {name}={text}: `{text}` is no knob value"),
                "give a number (0.01), a whole number (8), or #2 for the third option of a choice",
            ));
        };
        knobs.insert(name.clone(), value);
    }
    Ok(knobs)
}

/// Refuses values for knobs that the candidate did not declare, or not like
/// that: the sandbox would quietly take the default, or the nearest in range.
pub fn check_declared(knobs: &Knobs, declared: &[(String, KnobRange)]) -> Result<(), Failure> {
    for (name, value) in knobs {
        let Some((_, range)) = declared.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = declared.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Failure::usage(
                format!("--knob {name}: the candidate declares no knob of that name"),
                if known.is_empty() {
                    "it declares none".into()
                } else {
                    format!("it declares {}", known.join(", "))
                },
            ));
        };
        let fits = match (range, value) {
            (KnobRange::Number { low, high, .. }, KnobValue::Number(v)) => (low..=high).contains(&v),
            (KnobRange::Number { low, high, .. }, KnobValue::Integer(v)) => {
                (*low..=*high).contains(&(*v as f64))
            }
            (KnobRange::Integer { low, high, .. }, KnobValue::Integer(v)) => (low..=high).contains(&v),
            (KnobRange::Choice { options, .. }, KnobValue::Choice(v)) => (*v as usize) < options.len(),
            _ => false,
        };
        if !fits {
            let hint = match range {
                KnobRange::Number { low, high, .. } => format!("give a number from {low} to {high}"),
                KnobRange::Integer { low, high, .. } => format!("give a whole number from {low} to {high}"),
                KnobRange::Choice { options, .. } => {
                    let list = options.iter().enumerate().map(|(k, option)| format!("#{k} ({option})"));
                    format!("give one of {}", list.collect::<Vec<_>>().join(", "))
                }
            };
            return Err(Failure::usage(
                format!("--knob {name}: the value is outside of what the candidate declares"),
                hint,
            ));
        }
    }
    Ok(())
}

/// Sets limits by name.
pub fn limits(limits: &mut Limits, pairs: &[(String, String)]) -> Result<(), Failure> {
    for (name, text) in pairs {
        let value = text.replace('_', "").parse().map_err(|_| {
            Failure::usage(
                format!("--limit {name}={text}: `{text}` is no whole number"),
                "such as --limit fuel=1_000_000",
            )
        })?;
        limits.set(name, value).map_err(|e| {
            Failure::usage(format!("--limit {name}={text}: {e}"), "the task's own [budget] is a good start")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_pairs_are_read_or_refused() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("7").unwrap(), Duration::from_secs(7));
        for bad in ["", "-1s", "5d", "nan", "1e99h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(pair("a").is_err() && pair("=1").is_err() && pair("a=").is_err());
    }

    #[test]
    fn knob_values_keep_their_kind() {
        let pairs = [("a", "8"), ("b", "0.5"), ("c", "#1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let knobs = knobs(&pairs).unwrap();
        assert_eq!(knobs["a"], KnobValue::Integer(8));
        assert_eq!(knobs["b"], KnobValue::Number(0.5));
        assert_eq!(knobs["c"], KnobValue::Choice(1));
        assert!(super::knobs(&[("a".into(), "NaN".into())]).is_err());
    }
}
