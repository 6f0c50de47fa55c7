//! One attack: its file, and what the comment at its head demands.

use std::path::{Path, PathBuf};

use terrarium_sandbox::{Limits, World};

use crate::glass::small_limits;

/// In which form an attack is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `.rs`: compiled in the jail.
    Rust,
    /// `.wat`: WebAssembly in text form.
    Wat,
    /// `.hex`: the bytes of a module, with comments after `;;`.
    Hex,
}

/// The way in which an attack reaches the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the library.
    Library,
    /// Through `terrarium eval`, as text and as JSON.
    Eval,
    /// Through `terrarium run` and the report that it writes.
    Report,
}

/// Damage that a module is tried with, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Cut to each shorter length.
    Prefix,
    /// Each byte changed.
    Flip,
}

/// One attack. The fields are described in [`crate::corpus`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Attack {
    pub family: String,
    pub name: String,
    pub kind: Kind,
    pub text: String,
    pub what: String,
    pub expect: Vec<String>,
    pub world: World,
    pub via: Via,
    pub limits: Limits,
    pub limited: Vec<String>,
    pub input: Vec<u8>,
    pub output: Option<String>,
    pub score: Option<f64>,
    pub says: Vec<String>,
    pub never: Vec<String>,
    pub times: usize,
    pub keys: u64,
    pub caught: u64,
    pub every: Option<Every>,
}

/// The codes of [`terrarium_sandbox::Outcome`].
const CODES: &[&str] = &[
    "finished",
    "guest-error",
    "out-of-fuel",
    "device-fuel",
    "deadline",
    "memory-limit",
    "table-limit",
    "stack-overflow",
    "trap",
    "host-denied",
    "quota",
    "output-too-large",
    "not-finite",
    "probe-failed",
    "invalid-output",
    "device-lost",
    "worker-died",
    "rejected",
    "compile-error",
];

/// The folder of the corpus.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("escape")
}

/// All attacks, by family and name.
///
/// # Errors
/// What is wrong with the first file that is no attack.
pub fn load() -> Result<Vec<Attack>, String> {
    let list = |path: &Path| -> Result<Vec<PathBuf>, String> {
        let entries = std::fs::read_dir(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        Ok(paths)
    };
    let mut attacks = Vec::new();
    for family in list(&folder())?.into_iter().filter(|path| path.is_dir()) {
        for path in list(&family)? {
            let Some(kind) = kind_of(&path) else { continue };
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let attack = parse(name(&family), name(&path), kind, text);
            attacks.push(attack.map_err(|e| format!("{}: {e}", path.display()))?);
        }
    }
    Ok(attacks)
}

/// The kind of a file, `None` for one that another runner knows.
fn kind_of(path: &Path) -> Option<Kind> {
    match path.extension()?.to_str()? {
        "rs" => Some(Kind::Rust),
        "wat" => Some(Kind::Wat),
        "hex" => Some(Kind::Hex),
        _ => None,
    }
}

fn parse(family: String, name: String, kind: Kind, text: String) -> Result<Attack, String> {
    let mut attack = Attack {
        family,
        name,
        kind,
        what: String::new(),
        expect: Vec::new(),
        world: World::Function,
        via: Via::Library,
        limits: small_limits(),
        limited: Vec::new(),
        input: Vec::new(),
        output: None,
        score: None,
        says: Vec::new(),
        never: Vec::new(),
        times: 1,
        keys: 1,
        caught: 0,
        every: None,
        text: String::new(),
    };
    // Rust in either of its comments: a file that includes itself cannot have
    // those that describe what they are in.
    let marks: &[&str] = if kind == Kind::Rust { &["//!", "//"] } else { &[";;"] };
    let comment = |line: &'_ str| marks.iter().find_map(|mark| line.strip_prefix(mark)).map(str::to_owned);
    let mut all_keys = true;
    for line in text.lines().map_while(comment) {
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        let value = value.trim();
        let number = || value.parse::<u64>().map_err(|e| format!("{key}: {value}: {e}"));
        match key {
            "attack" => attack.what = value.to_owned(),
            "expect" => attack.expect = value.split('|').map(|code| code.trim().to_owned()).collect(),
            "world" if value == "trainer" => attack.world = World::Trainer,
            "via" if value == "eval" => attack.via = Via::Eval,
            "via" if value == "report" => attack.via = Via::Report,
            "limits" => {
                for pair in value.split_whitespace() {
                    attack.limited.push(pair.to_owned());
                    let (name, value) = pair.split_once('=').ok_or("limits: name=value …")?;
                    let value = value.parse().map_err(|e| format!("{pair}: {e}"))?;
                    attack.limits.set(name, value).map_err(|e| e.to_string())?;
                }
            }
            "input" => attack.input = value.as_bytes().to_vec(),
            "output" => attack.output = Some(value.to_owned()),
            "score" => attack.score = Some(value.parse().map_err(|e| format!("score: {e}"))?),
            "says" => attack.says.push(value.to_owned()),
            "never" => attack.never.push(value.to_owned()),
            "times" => attack.times = number()? as usize,
            "keys" => attack.keys = number()?,
            "caught" => (attack.caught, all_keys) = (number()?, false),
            "every" if value == "prefix" => attack.every = Some(Every::Prefix),
            "every" if value == "flip" => attack.every = Some(Every::Flip),
            key if key.bytes().all(|b| b.is_ascii_lowercase()) => {
                return Err(format!("`{key}: {value}` is not known at the head of an attack"));
            }
            _ => {}
        }
    }
    if all_keys {
        attack.caught = attack.keys;
    }
    if attack.what.is_empty() || attack.expect.is_empty() {
        return Err("it does not say `attack:` and `expect:`".into());
    }
    if let Some(code) = attack.expect.iter().find(|code| !CODES.contains(&code.as_str())) {
        return Err(format!("no outcome has the code `{code}`"));
    }
    attack.text = text;
    Ok(attack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_and_a_slip_in_it_is_told() {
        let head = "//! attack: tries\n//! expect: trap | deadline\n//! limits: fuel=5000\nfn main() {}\n";
        let attack = parse("f".into(), "n".into(), Kind::Rust, head.into()).unwrap();
        assert_eq!((attack.what.as_str(), attack.limits.fuel), ("tries", 5000));
        assert_eq!(attack.expect, ["trap", "deadline"]);
        for (wrong, told) in [
            ("//! attack: x\n//! expect: trapp\n", "`trapp`"),
            ("//! attack: x\n//! expect: trap\n//! nevr: x\n", "nevr"),
            ("//! attack: x\n", "expect"),
        ] {
            let error = parse("f".into(), "n".into(), Kind::Rust, wrong.into()).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
