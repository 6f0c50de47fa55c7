//! Text to learn from: bytes, split into train, validation and final shards.
//!
//! The default corpus is the Rust source of pinned crates
//! (`engine/corpus/Cargo.toml`), the same bytes on every machine. A folder of
//! the user's own text is split by file. Either way nothing is in two splits,
//! and the final split is for the last measurement only: selection never sees
//! it.
//!
//! In the cache, `corpus/<id>/` holds `train.bin`, `val.bin` and `final.bin`
//! (bytes as tokens; every document ends with one byte 0) and `corpus.json`
//! (a [`Manifest`]). The folder appears whole or not at all. A task may ask for
//! a vocabulary of another size: byte-pair encoding, trained on the train
//! split alone, in a folder beside it (`tokens.rs`).

mod bpe;
mod crates;
mod folder;
mod jsonl;
mod parquet;
mod pieces;
mod shards;
mod tokens;
mod zstd_pages;

pub use bpe::{BYTES, MAX_VOCABULARY};
pub use tokens::with_vocabulary;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use terrarium_sandbox::toolchain::{Dirs, ToolchainError, store};

/// Version of `corpus.json` and of the way shards are made.
pub const SCHEMA: &str = "terrarium-corpus/1";

/// A prepared corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    /// What candidates train on.
    pub train: PathBuf,
    /// What selection scores on.
    pub val: PathBuf,
    /// What only the last measurement sees.
    pub final_split: PathBuf,
    /// The bytes that each token stands for; `None` where tokens are bytes.
    pub token_bytes: Option<PathBuf>,
    /// Tokens are 0..vocabulary.
    pub vocabulary: u32,
    /// BLAKE3 of everything that the shards were made from; also the folder's name.
    pub id: String,
    /// What `xz -9` makes of the held-out shards, in bits per byte.
    pub xz_bits_per_byte: XzFigures,
    /// What was left out, and why (one line each).
    pub skipped: Vec<String>,
}

/// A general compressor as a yardstick; `None` where there is no `xz`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct XzFigures {
    /// On the validation shard.
    pub val: Option<f64>,
    /// On the final shard.
    #[serde(rename = "final")]
    pub final_split: Option<f64>,
}

/// `corpus.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// The corpus's id.
    pub id: String,
    /// Where the text is from.
    pub source: String,
    /// The three shards.
    pub shards: Vec<Shard>,
    /// `xz -9`, in bits per byte.
    pub xz_bits_per_byte: XzFigures,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

/// One shard in `corpus.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// File name.
    pub file: String,
    /// Documents in it.
    pub documents: u64,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its bytes, in hex.
    pub blake3: String,
    /// The crates in it; empty for a folder.
    pub crates: Vec<String>,
    /// What it holds, where its tokens are not bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenCount>,
}

/// What a shard of tokens holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCount {
    /// Tokens.
    pub tokens: u64,
    /// Bytes of the text that they stand for.
    pub text_bytes: u64,
}

/// Which split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Val,
    Final,
}

/// Why there is no corpus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// Fetching, or the cache folder.
    #[error(transparent)]
    Cache(#[from] ToolchainError),
    /// The manifest of the default corpus does not fit what was fetched.
    #[error("the default corpus: {0}")]
    Default(String),
    /// The folder does not exist or is not one.
    #[error("{} is not a folder that can be read: {source}", path.display())]
    NotAFolder {
        /// As given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No file at all.
    #[error("{} holds no files", .0.display())]
    EmptyFolder(PathBuf),
    /// Files, but no text.
    #[error("none of the {files} files in {} is UTF-8 text", path.display())]
    NoText {
        /// The folder.
        path: PathBuf,
        /// Files looked at.
        files: usize,
    },
    /// A size that no vocabulary has.
    #[error("a vocabulary of {asked} tokens is out of range: {BYTES}..={MAX_VOCABULARY}")]
    Vocabulary {
        /// As the task says.
        asked: u32,
    },
    /// The text has fewer different pairs than that.
    #[error("the text of the train split gives {got} tokens, not {asked}")]
    VocabularyTooLarge {
        /// As the task says.
        asked: u32,
        /// All that there are.
        got: u32,
    },
    /// Not enough to train and measure on.
    #[error("{} holds {bytes} bytes of text in {files} files; needed are {MIN_BYTES} bytes in {MIN_FILES} files", path.display())]
    TooSmall {
        /// The folder.
        path: PathBuf,
        /// Bytes of text.
        bytes: u64,
        /// Files of text.
        files: usize,
    },
}

/// Fewest bytes of text of a user's own.
pub const MIN_BYTES: u64 = 64 << 10;
/// Fewest files of text of a user's own: the split is by file.
pub const MIN_FILES: usize = 3;

impl CorpusError {
    /// One thing to try.
    pub fn hint(&self) -> String {
        match self {
            Self::Cache(error) => error.hint(),
            Self::Default(_) => "run `terrarium setup` where cargo can reach its registry".into(),
            Self::NotAFolder { .. } => "give the path of a folder of text files".into(),
            Self::EmptyFolder(_) | Self::NoText { .. } => {
                "put UTF-8 text files (.txt, .md, .rs …), .jsonl or .parquet with a `text` into it; subfolders are read too".into()
            }
            Self::Vocabulary { .. } => "256 are the bytes; 512 to 65536 suit most texts".into(),
            Self::VocabularyTooLarge { got, .. } => {
                format!("set `vocabulary` in [data] to at most {got}, or add text")
            }
            Self::TooSmall { .. } => "add text, or cut one large file into several".into(),
        }
    }
}

/// The default corpus, fetched and built at the first call and found at later
/// ones. `progress` gets one line for each step.
pub fn default_corpus(dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Corpus, CorpusError> {
    let id = crates::id();
    prepare(dirs, &id, progress, |progress| crates::collect(dirs, progress))
}

/// A corpus of the text files below a folder.
pub fn from_dir(path: &Path, dirs: &Dirs, progress: &mut dyn FnMut(&str)) -> Result<Corpus, CorpusError> {
    let collected = folder::collect(path)?;
    prepare(dirs, &collected.id(), progress, |_| Ok(collected))
}

fn prepare(
    dirs: &Dirs,
    id: &str,
    progress: &mut dyn FnMut(&str),
    collect: impl FnOnce(&mut dyn FnMut(&str)) -> Result<shards::Collected, CorpusError>,
) -> Result<Corpus, CorpusError> {
    let folder = dirs.cache.join("corpus").join(id);
    if let Some(found) = shards::find(&folder) {
        return Ok(found);
    }
    let _lock = store::lock(dirs, "corpus", progress)?;
    // Somebody else may have made it while we waited.
    if let Some(found) = shards::find(&folder) {
        return Ok(found);
    }
    let collected = collect(progress)?;
    progress(&format!("writing the corpus ({} documents)", collected.documents.len()));
    shards::write(&folder, id, &collected)?;
    shards::find(&folder)
        .ok_or_else(|| CorpusError::Default(format!("{} is not what was written", folder.display())))
}
