//! Checks JSON against the schemas of this repository: that part of JSON
//! Schema, draft 2020-12, which they use. A keyword that is not implemented
//! here is an error, never ignored.

use serde_json::Value;

/// A schema document.
pub struct Schema {
    document: Value,
}

/// Keywords that only describe.
const SILENT: [&str; 5] = ["$schema", "$defs", "title", "description", "$comment"];

impl Schema {
    /// `schemas/NAME.schema.json`.
    ///
    /// # Panics
    /// If it is missing or not JSON.
    pub fn named(name: &str) -> Self {
        let path = format!("{}/../schemas/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        Self::new(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}")))
    }

    /// From a document in memory.
    pub fn new(document: Value) -> Self {
        Self { document }
    }

    /// The first thing that does not fit: where it is, and what is wrong.
    ///
    /// # Errors
    /// If something does not fit, or the schema uses what is not implemented.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        self.fits(&self.document, value, "$")
    }

    fn fits(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let keywords = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => return Err(format!("{at} is not allowed")),
            Value::Object(keywords) => keywords,
            other => return Err(format!("{other} is no schema")),
        };
        for (keyword, rule) in keywords {
            if !SILENT.contains(&keyword.as_str()) {
                self.keyword(keywords, keyword, rule, value, at)?;
            }
        }
        Ok(())
    }

    fn keyword(
        &self,
        schema: &serde_json::Map<String, Value>,
        keyword: &str,
        rule: &Value,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let holds = match keyword {
            "$ref" => return self.fits(self.target(rule)?, value, at),
            "const" => value == rule,
            "enum" => list(rule).contains(value),
            "type" => match rule {
                Value::Array(names) => names.iter().any(|name| is_a(value, name)),
                name => is_a(value, name),
            },
            "minimum" => value.as_f64().is_none_or(|v| rule.as_f64().is_some_and(|low| v >= low)),
            "maximum" => value.as_f64().is_none_or(|v| rule.as_f64().is_some_and(|high| v <= high)),
            "minLength" => value.as_str().is_none_or(|v| v.chars().count() as u64 >= whole(rule)),
            "maxLength" => value.as_str().is_none_or(|v| v.chars().count() as u64 <= whole(rule)),
            "minItems" => value.as_array().is_none_or(|v| v.len() as u64 >= whole(rule)),
            "maxItems" => value.as_array().is_none_or(|v| v.len() as u64 <= whole(rule)),
            "required" => {
                let missing = |name: &&Value| value.get(name.as_str().unwrap_or_default()).is_none();
                match list(rule).iter().find(missing) {
                    Some(name) if value.is_object() => return Err(format!("{at} lacks {name}")),
                    _ => true,
                }
            }
            "oneOf" => return self.one_of(list(rule), value, at),
            "properties" => {
                for (name, inner) in rule.as_object().into_iter().flatten() {
                    if let Some(found) = value.get(name) {
                        self.fits(inner, found, &format!("{at}.{name}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, found) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| !known.contains_key(name)) {
                        self.fits(rule, found, &format!("{at}.{name}"))?;
                    }
                }
                true
            }
            "prefixItems" => {
                for (n, (inner, found)) in list(rule).iter().zip(list(value)).enumerate() {
                    self.fits(inner, found, &format!("{at}[{n}]"))?;
                }
                true
            }
            "items" => {
                let first = schema.get("prefixItems").map_or(0, |prefix| list(prefix).len());
                for (n, found) in list(value).iter().enumerate().skip(first) {
                    self.fits(rule, found, &format!("{at}[{n}]"))?;
                }
                true
            }
            other => return Err(format!("the keyword {other} is not implemented")),
        };
        if holds { Ok(()) } else { Err(format!("{at}: {keyword} {rule} does not hold for {value}")) }
    }

    fn one_of(&self, choices: &[Value], value: &Value, at: &str) -> Result<(), String> {
        let results: Vec<_> = choices.iter().map(|choice| self.fits(choice, value, at)).collect();
        match results.iter().filter(|result| result.is_ok()).count() {
            1 => Ok(()),
            0 => {
                let why: Vec<_> = results.into_iter().filter_map(Result::err).collect();
                Err(format!("{at} is none of these: {}", why.join(" | ")))
            }
            many => Err(format!("{at} is {many} of the choices of oneOf at once")),
        }
    }

    fn target(&self, reference: &Value) -> Result<&Value, String> {
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#'));
        pointer
            .and_then(|pointer| self.document.pointer(pointer))
            .ok_or_else(|| format!("{reference} leads nowhere"))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn whole(rule: &Value) -> u64 {
    rule.as_u64().unwrap_or(u64::MAX)
}

fn is_a(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("number") => value.is_number(),
        Some("integer") => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|v| v.fract() == 0.0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_keyword_accepts_and_refuses() {
        for (schema, good, bad) in [
            (json!({"const": 1}), json!(1), json!(2)),
            (json!({"enum": [1, null]}), json!(null), json!(2)),
            (json!({"type": "integer"}), json!(3), json!(3.5)),
            (json!({"type": ["string", "null"]}), json!("a"), json!(1)),
            (json!({"minimum": 1, "maximum": 2}), json!(2), json!(3)),
            (json!({"minLength": 2}), json!("ab"), json!("a")),
            (json!({"maxLength": 2}), json!("ab"), json!("abc")),
            (json!({"minItems": 1, "maxItems": 1}), json!([1]), json!([])),
            (json!({"required": ["a"]}), json!({"a": 1}), json!({"b": 1})),
            (json!({"properties": {"a": {"type": "null"}}}), json!({"a": null}), json!({"a": 1})),
            (
                json!({"properties": {"a": true}, "additionalProperties": false}),
                json!({"a": 1}),
                json!({"b": 1}),
            ),
            (json!({"additionalProperties": {"type": "null"}}), json!({"a": null}), json!({"a": 1})),
            (json!({"prefixItems": [true], "items": {"type": "null"}}), json!([1, null]), json!([1, 1])),
            (json!({"oneOf": [{"const": 1}, {"type": "string"}]}), json!("a"), json!(2)),
            (json!({"$defs": {"x": {"const": 1}}, "$ref": "#/$defs/x"}), json!(1), json!(2)),
        ] {
            let schema = Schema::new(schema);
            schema.check(&good).unwrap();
            assert!(schema.check(&bad).is_err(), "{bad}");
        }
        let both = Schema::new(json!({"oneOf": [true, {"const": 1}]}));
        assert!(both.check(&json!(1)).is_err());
        let unknown = Schema::new(json!({"pattern": "a"}));
        assert!(unknown.check(&json!("a")).unwrap_err().contains("not implemented"));
    }
}
