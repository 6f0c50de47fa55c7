//! From documents to shards on disk, and back from disk.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use terrarium_sandbox::toolchain::{ToolchainError, store};

use super::{Corpus, CorpusError, Manifest, SCHEMA, Shard, Split, XzFigures};

/// One document, before it is written.
pub(super) struct Document {
    /// What the order within a split follows.
    pub name: String,
    pub split: Split,
    pub text: Vec<u8>,
}

/// All that goes into a corpus.
pub(super) struct Collected {
    pub source: String,
    pub documents: Vec<Document>,
    /// Crates of each split; empty for a folder.
    pub crates: Vec<(Split, String)>,
    pub skipped: Vec<String>,
}

impl Collected {
    /// An id that is made from the content.
    pub(super) fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        store::hash_part(&mut hasher, SCHEMA.as_bytes());
        for document in &self.documents {
            store::hash_part(&mut hasher, document.name.as_bytes());
            store::hash_part(&mut hasher, &document.text);
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

pub(super) const SPLITS: [(Split, &str); 3] =
    [(Split::Train, "train.bin"), (Split::Val, "val.bin"), (Split::Final, "final.bin")];

/// The corpus in a folder, if it is whole: the manifest is there and the shards
/// have the lengths that it says.
pub(super) fn find(folder: &Path) -> Option<Corpus> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join("corpus.json")).ok()?).ok()?;
    if manifest.schema != SCHEMA || manifest.shards.len() != SPLITS.len() {
        return None;
    }
    for (shard, (_, file)) in manifest.shards.iter().zip(SPLITS) {
        if shard.file != file || fs::metadata(folder.join(file)).ok()?.len() != shard.bytes {
            return None;
        }
    }
    let [train, val, final_split] = SPLITS.map(|(_, file)| folder.join(file));
    Some(Corpus {
        train,
        val,
        final_split,
        token_bytes: None,
        vocabulary: super::BYTES,
        id: manifest.id,
        xz_bits_per_byte: manifest.xz_bits_per_byte,
        skipped: manifest.skipped,
    })
}

/// Writes the shards and the manifest, and puts the folder in its place.
pub(super) fn write(folder: &Path, id: &str, collected: &Collected) -> Result<(), CorpusError> {
    let staging = store::Staging::beside(folder)?;
    let mut shards = Vec::new();
    for (split, file) in SPLITS {
        let mut documents: Vec<&Document> = collected.documents.iter().filter(|d| d.split == split).collect();
        documents.sort_by(|a, b| a.name.cmp(&b.name));
        let mut bytes = Vec::with_capacity(documents.iter().map(|d| d.text.len() + 1).sum());
        for document in &documents {
            bytes.extend_from_slice(&document.text);
            bytes.push(0);
        }
        let path = staging.path().join(file);
        store::write_atomically(&path, &bytes)?;
        shards.push(Shard {
            file: file.to_owned(),
            documents: documents.len() as u64,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(&bytes).to_hex().to_string(),
            crates: collected
                .crates
                .iter()
                .filter(|(of, _)| *of == split)
                .map(|(_, name)| name.clone())
                .collect(),
            tokens: None,
        });
    }
    let manifest = Manifest {
        schema: SCHEMA.to_owned(),
        id: id.to_owned(),
        source: collected.source.clone(),
        shards,
        xz_bits_per_byte: XzFigures {
            val: xz_bits_per_byte(&staging.path().join("val.bin")),
            final_split: xz_bits_per_byte(&staging.path().join("final.bin")),
        },
        skipped: collected.skipped.clone(),
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| CorpusError::Default(e.to_string()))?;
    store::write_atomically(&staging.path().join("corpus.json"), &text)?;
    staging.publish(folder)?;
    Ok(())
}

/// What `xz -9` makes of a file, if there is an `xz`.
fn xz_bits_per_byte(path: &Path) -> Option<f64> {
    let bytes = fs::metadata(path).ok()?.len();
    let mut child = Command::new("xz")
        .args(["-9", "--threads=1", "--keep", "--stdout"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut packed = Vec::new();
    let read = child.stdout.take().map(|mut out| out.read_to_end(&mut packed));
    let status = child.wait().ok()?;
    (bytes > 0 && status.success() && matches!(read, Some(Ok(_))))
        .then(|| 8.0 * packed.len() as f64 / bytes as f64)
}

/// Reads a file that is to be a document: UTF-8 text without the byte that
/// ends documents. `Err` says why it is not.
pub(super) fn read_text(path: &Path) -> Result<Result<Vec<u8>, &'static str>, ToolchainError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(_) => return Ok(Err("cannot be read")),
    };
    Ok(is_text(&bytes).map(|()| bytes))
}

/// Whether bytes can be a document.
pub(super) fn is_text(bytes: &[u8]) -> Result<(), &'static str> {
    match std::str::from_utf8(bytes) {
        Err(_) => Err("is not UTF-8 text"),
        Ok(text) if text.trim().is_empty() => Err("is empty"),
        Ok(_) if bytes.contains(&0) => Err("holds a byte 0"),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected() -> Collected {
        let document =
            |name: &str, split, text: &str| Document { name: name.into(), split, text: text.into() };
        Collected {
            source: "test".into(),
            documents: vec![
                document("b", Split::Train, "second"),
                document("a", Split::Train, "first"),
                document("c", Split::Val, "val"),
                document("d", Split::Final, "final"),
            ],
            crates: vec![],
            skipped: vec!["x is not UTF-8 text".into()],
        }
    }

    #[test]
    fn documents_are_in_the_order_of_their_names_and_end_with_a_zero() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("c");
        write(&folder, "id", &collected()).expect("written");
        let corpus = find(&folder).expect("found");
        assert_eq!(fs::read(&corpus.train).expect("read"), b"first\0second\0");
        assert_eq!(fs::read(&corpus.final_split).expect("read"), b"final\0");
        assert_eq!(corpus.skipped, ["x is not UTF-8 text"]);
    }

    #[test]
    fn a_shard_that_was_cut_is_not_found() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("c");
        write(&folder, "id", &collected()).expect("written");
        fs::write(folder.join("val.bin"), b"va").expect("cut");
        assert_eq!(find(&folder), None);
    }
}
