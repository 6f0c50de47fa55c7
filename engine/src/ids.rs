//! Content addresses: what a candidate and a blob are called.

use serde::{Deserialize, Serialize};
use std::fmt;
use terrarium_sandbox::Knobs;

/// An id that is not 64 lower-case hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an id: 64 lower-case hexadecimal digits are expected")]
pub struct IdError(String);

fn checked(text: String) -> Result<String, IdError> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() == 64 && text.bytes().all(hex) { Ok(text) } else { Err(IdError(text)) }
}

macro_rules! id {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first ten digits, for people.
            pub fn short(&self) -> &str {
                self.0.get(..10).unwrap_or(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                checked(text).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(BlobId, "BLAKE3 of a blob's bytes, in hexadecimal.");
id!(CandidateId, "BLAKE3 of a candidate's source id and the canonical JSON of its knobs, in hexadecimal.");

impl BlobId {
    /// The address of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }
}

impl CandidateId {
    /// The id of `source` with `knobs`. Knobs are a sorted map of finite
    /// values, so their JSON is canonical; two candidates are the same exactly
    /// when their source bytes and their given knobs are.
    pub fn of(source: &BlobId, knobs: &Knobs) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("terrarium 2026 candidate id v1");
        hasher.update(source.0.as_bytes());
        hasher.update(&serde_json::to_vec(knobs).unwrap_or_default());
        Self(hasher.finalize().to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use terrarium_sandbox::KnobValue;

    #[test]
    fn an_id_depends_on_source_and_on_every_knob() {
        let source = BlobId::of(b"fn main() {}");
        let mut knobs = Knobs::new();
        let plain = CandidateId::of(&source, &knobs);
        knobs.insert("lr".into(), KnobValue::Number(0.1));
        let tuned = CandidateId::of(&source, &knobs);
        assert_ne!(plain, tuned);
        assert_ne!(tuned, CandidateId::of(&BlobId::of(b""), &knobs));
        assert_eq!(tuned, CandidateId::of(&source, &knobs.clone()));
        assert_eq!(tuned.short().len(), 10);
    }

    #[test]
    fn text_that_is_no_id_is_refused_also_by_serde() {
        assert!(BlobId::try_from("../../etc/passwd".to_owned()).is_err());
        assert!(serde_json::from_str::<CandidateId>("\"AB\"").is_err());
        let id = BlobId::of(b"x");
        assert_eq!(BlobId::try_from(id.to_string()), Ok(id));
    }
}
