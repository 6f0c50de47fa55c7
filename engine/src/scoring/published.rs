//! Published constructions against which the verifiers are checked
//! (google-deepmind/alphaevolve_results, mathematical_results notebook,
//! Apache-2.0 / CC-BY-4.0; the file repeats it).

use serde_json::Value;

/// The numbers of one construction, flattened.
pub fn construction(name: &str) -> Vec<f64> {
    let all: Value = serde_json::from_str(include_str!("published/constructions.json")).unwrap();
    let mut numbers = Vec::new();
    flatten(&all[name]["values"], &mut numbers);
    assert!(!numbers.is_empty(), "no construction {name}");
    numbers
}

fn flatten(value: &Value, into: &mut Vec<f64>) {
    match value {
        Value::Array(values) => values.iter().for_each(|v| flatten(v, into)),
        other => into.extend(other.as_f64()),
    }
}
