//! From shards of bytes to shards of tokens.
//!
//! `corpus/<id>-bpe-<V>/` holds `train.bin`, `val.bin` and `final.bin`
//! (little-endian tokens of 2 bytes, or 4 above 65,536 tokens; every document
//! ends with token 0), `token_bytes.bin` (a little-endian u32 per token: the
//! bytes of text that it stands for), `merges.json` and `corpus.json`.
//!
//! The work is done in pieces, each of which is on disk before the next is
//! begun (`corpus/<id>-bpe-<V>.part/`): a preparation that was killed goes on
//! where it was, and gives the same files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use terrarium_sandbox::token_width;
use terrarium_sandbox::toolchain::{Dirs, ToolchainError, store};

use super::bpe::{BYTES, Bpe, MAX_VOCABULARY};
use super::shards::{self, SPLITS};
use super::{Corpus, CorpusError, Manifest, TokenCount};

/// Text of one piece, in bytes: whole documents until this is reached.
const PIECE_BYTES: usize = 4 << 20;

const TOKEN_BYTES: &str = "token_bytes.bin";
const MERGES: &str = "merges.json";

/// Most text that a vocabulary is trained on, in bytes; of more, whole
/// documents at equal distances. It bounds time and memory.
const MAX_TRAINING_BYTES: u64 = 1 << 30;

/// The corpus in tokens of a vocabulary of this size, trained on its train
/// split; 256 are the bytes themselves.
pub fn with_vocabulary(
    corpus: Corpus,
    vocabulary: u32,
    dirs: &Dirs,
    progress: &mut dyn FnMut(&str),
) -> Result<Corpus, CorpusError> {
    if vocabulary == BYTES {
        return Ok(corpus);
    }
    if !(BYTES..=MAX_VOCABULARY).contains(&vocabulary) {
        return Err(CorpusError::Vocabulary { asked: vocabulary });
    }
    let name = format!("{}-bpe-{vocabulary}", corpus.id);
    let folder = dirs.cache.join("corpus").join(&name);
    if let Some(found) = find(&folder, vocabulary) {
        return Ok(Corpus { skipped: corpus.skipped, ..found });
    }
    let _lock = store::lock(dirs, "corpus", progress)?;
    if let Some(found) = find(&folder, vocabulary) {
        return Ok(Corpus { skipped: corpus.skipped, ..found });
    }
    let work = dirs.cache.join("corpus").join(format!("{name}.part"));
    store::make_dir(&work)?;
    let bpe = vocabulary_of(&corpus.train, vocabulary, &work, progress)?;
    encode(&corpus, &bpe, &work, progress)?;
    publish(&corpus, &bpe, &work, &folder)?;
    let _ = fs::remove_dir_all(&work);
    let found = find(&folder, vocabulary)
        .ok_or_else(|| CorpusError::Default(format!("{} is not what was written", folder.display())))?;
    Ok(Corpus { skipped: corpus.skipped, ..found })
}

/// The folder of tokens, if it is whole.
fn find(folder: &Path, vocabulary: u32) -> Option<Corpus> {
    let corpus = shards::find(folder)?;
    let table = folder.join(TOKEN_BYTES);
    let whole = fs::metadata(&table).ok()?.len() == 4 * u64::from(vocabulary);
    whole.then_some(Corpus { token_bytes: Some(table), vocabulary, ..corpus })
}

fn io(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> CorpusError {
    move |source| CorpusError::Cache(ToolchainError::Io { doing, path: path.to_owned(), source })
}

/// The documents of a shard of bytes, one after the other.
struct Documents {
    path: PathBuf,
    file: BufReader<File>,
}

impl Documents {
    fn open(path: &Path) -> Result<Self, CorpusError> {
        let file = File::open(path).map_err(io("open", path))?;
        Ok(Self { path: path.to_owned(), file: BufReader::with_capacity(1 << 20, file) })
    }

    fn next(&mut self) -> Result<Option<String>, CorpusError> {
        let mut bytes = Vec::new();
        self.file.read_until(0, &mut bytes).map_err(io("read", &self.path))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let whole = bytes.pop() == Some(0);
        match String::from_utf8(bytes) {
            Ok(text) if whole => Ok(Some(text)),
            _ => Err(CorpusError::Default(format!("{} is damaged", self.path.display()))),
        }
    }

    /// Whole documents of together about [`PIECE_BYTES`]; none at the end.
    fn piece(&mut self) -> Result<Vec<String>, CorpusError> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES {
            let Some(document) = self.next()? else { break };
            bytes += document.len() + 1;
            piece.push(document);
        }
        Ok(piece)
    }
}

fn vocabulary_of(
    train: &Path,
    vocabulary: u32,
    work: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Bpe, CorpusError> {
    let file = work.join(MERGES);
    if let Ok(Ok(known)) = fs::read(&file).map(|json| Bpe::read(&json))
        && known.token_bytes().len() == vocabulary as usize
    {
        progress("found the vocabulary of a preparation that was interrupted");
        return Ok(known);
    }
    progress(&format!("training a vocabulary of {vocabulary} tokens"));
    let total = fs::metadata(train).map_err(io("read", train))?.len();
    let every = total.div_ceil(MAX_TRAINING_BYTES).max(1);
    let mut documents = Documents::open(train)?;
    let mut texts = Vec::new();
    let mut number = 0u64;
    while let Some(document) = documents.next()? {
        if number.is_multiple_of(every) {
            texts.push(document);
        }
        number += 1;
    }
    let trained = Bpe::train(texts.iter().map(String::as_str), vocabulary);
    let got = trained.token_bytes().len() as u32;
    if got != vocabulary {
        return Err(CorpusError::VocabularyTooLarge { asked: vocabulary, got });
    }
    store::write_atomically(&file, &json(&trained)?)?;
    Ok(trained)
}

fn json(bpe: &Bpe) -> Result<Vec<u8>, CorpusError> {
    bpe.json().map_err(|e| CorpusError::Default(e.to_string()))
}

fn piece_path(work: &Path, split: &str, number: usize) -> PathBuf {
    work.join(format!("{split}.{number:06}"))
}

/// The pieces that are not there yet.
fn encode(
    corpus: &Corpus,
    bpe: &Bpe,
    work: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), CorpusError> {
    let width = token_width(bpe.token_bytes().len());
    let mut found = 0;
    for ((_, name), source) in SPLITS.iter().zip([&corpus.train, &corpus.val, &corpus.final_split]) {
        let mut documents = Documents::open(source)?;
        for number in 0.. {
            let piece = documents.piece()?;
            if piece.is_empty() {
                break;
            }
            let path = piece_path(work, name, number);
            if path.is_file() {
                found += 1;
                continue;
            }
            if found > 0 {
                progress(&format!("found {found} pieces of a preparation that was interrupted"));
                found = 0;
            }
            progress(&format!("encoding {name}, piece {}", number + 1));
            let mut bytes = Vec::new();
            for token in bpe.encode(&piece).iter().flat_map(|of| of.iter().chain([&Bpe::END])) {
                bytes.extend_from_slice(&token.to_le_bytes()[..width]);
            }
            store::write_atomically(&path, &bytes)?;
        }
    }
    Ok(())
}

/// Joins the pieces, and puts the folder in its place.
fn publish(corpus: &Corpus, bpe: &Bpe, work: &Path, folder: &Path) -> Result<(), CorpusError> {
    let source = corpus.train.with_file_name("corpus.json");
    let text = fs::read(&source).map_err(io("read", &source))?;
    let mut manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| CorpusError::Default(format!("corpus.json: {e}")))?;
    let staging = store::Staging::beside(folder)?;
    let width = token_width(bpe.token_bytes().len());
    for (shard, (_, name)) in manifest.shards.iter_mut().zip(SPLITS) {
        let path = staging.path().join(name);
        let mut out = File::create(&path).map_err(io("create", &path))?;
        let mut hasher = blake3::Hasher::new();
        let mut count = TokenCount { tokens: 0, text_bytes: 0 };
        for number in 0.. {
            let piece = piece_path(work, name, number);
            if !piece.is_file() {
                break;
            }
            let mut bytes = Vec::new();
            File::open(&piece).and_then(|mut f| f.read_to_end(&mut bytes)).map_err(io("read", &piece))?;
            for token in bytes.chunks_exact(width) {
                let mut full = [0; 4];
                full[..width].copy_from_slice(token);
                let stands_for = bpe.token_bytes().get(u32::from_le_bytes(full) as usize);
                count.text_bytes += u64::from(stands_for.copied().unwrap_or(0));
            }
            count.tokens += (bytes.len() / width) as u64;
            hasher.update(&bytes);
            out.write_all(&bytes).map_err(io("write", &path))?;
        }
        out.sync_all().map_err(io("write", &path))?;
        // Every byte of the text is in exactly one token.
        if count.text_bytes != shard.bytes {
            let what = format!("{name}: the tokens stand for {} bytes of {}", count.text_bytes, shard.bytes);
            let _ = fs::remove_dir_all(work);
            return Err(CorpusError::Default(what));
        }
        shard.bytes = count.tokens * width as u64;
        shard.blake3 = hasher.finalize().to_hex().to_string();
        shard.tokens = Some(count);
    }
    let table: Vec<u8> = bpe.token_bytes().iter().flat_map(|bytes| bytes.to_le_bytes()).collect();
    store::write_atomically(&staging.path().join(TOKEN_BYTES), &table)?;
    store::write_atomically(&staging.path().join(MERGES), &json(bpe)?)?;
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| CorpusError::Default(e.to_string()))?;
    store::write_atomically(&staging.path().join("corpus.json"), &text)?;
    staging.publish(folder)?;
    Ok(())
}
