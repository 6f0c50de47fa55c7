//! A corpus of the user's own text, split by file.

use std::fs;
use std::path::{Path, PathBuf};

use super::jsonl;
use super::parquet;
use super::shards::{Collected, Document, read_text};
use super::{CorpusError, MIN_BYTES, MIN_FILES, Split};

/// Most files that are named as left out.
const MAX_NAMED: usize = 200;

pub(super) fn collect(root: &Path) -> Result<Collected, CorpusError> {
    let not_a_folder = |source| CorpusError::NotAFolder { path: root.to_owned(), source };
    let root = fs::canonicalize(root).map_err(not_a_folder)?;
    let mut skipped = Vec::new();
    let mut paths = Vec::new();
    walk(&root, &root, &mut paths, &mut skipped).map_err(not_a_folder)?;
    if paths.is_empty() && skipped.is_empty() {
        return Err(CorpusError::EmptyFolder(root));
    }
    paths.sort();
    let files = paths.len();
    let mut documents: Vec<Document> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    // The same text in two splits would be held out in name only.
    let mut take = |document: Document, documents: &mut Vec<Document>, skipped: &mut Vec<String>| {
        if seen.insert(blake3::hash(&document.text)) {
            documents.push(document);
        } else {
            skipped.push(format!("{}: is a copy of another file", document.name));
        }
    };
    for path in paths {
        let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
        let many = match path.extension().and_then(|e| e.to_str()) {
            Some("jsonl") => Some(match fs::read(&path) {
                Ok(file) => jsonl::documents(&name, &file),
                Err(_) => (Vec::new(), vec![format!("{name}: cannot be read")]),
            }),
            Some("parquet") => Some(parquet::documents(&name, &path)),
            _ => None,
        };
        if let Some((found, bad)) = many {
            skipped.extend(bad);
            for document in found {
                take(document, &mut documents, &mut skipped);
            }
            continue;
        }
        match read_text(&path)? {
            Ok(text) => take(Document { split: Split::Train, name, text }, &mut documents, &mut skipped),
            Err(reason) => skipped.push(format!("{name}: {reason}")),
        }
    }
    if documents.is_empty() {
        return Err(CorpusError::NoText { path: root, files });
    }
    let bytes = documents.iter().map(|document| document.text.len() as u64).sum();
    if bytes < MIN_BYTES || documents.len() < MIN_FILES {
        return Err(CorpusError::TooSmall { path: root, bytes, files: documents.len() });
    }
    split(&mut documents);
    let more = skipped.len().saturating_sub(MAX_NAMED);
    skipped.truncate(MAX_NAMED);
    if more > 0 {
        skipped.push(format!("and {more} more"));
    }
    Ok(Collected { source: format!("the folder {}", root.display()), documents, crates: Vec::new(), skipped })
}

/// In the order of a hash of their paths, files go to validation until it has a
/// twentieth of the bytes, then to final likewise, then to train: always at
/// least one file each, and the same files whatever else is true of them.
fn split(documents: &mut [Document]) {
    let total: u64 = documents.iter().map(|document| document.text.len() as u64).sum();
    let share = total / 20;
    documents.sort_by_cached_key(|document| *blake3::hash(document.name.as_bytes()).as_bytes());
    // The largest file is for training, else a few files could end up without any.
    let largest = (0..documents.len()).max_by_key(|&i| (documents[i].text.len(), documents.len() - i));
    let (mut val, mut last) = (0, 0);
    for (i, document) in documents.iter_mut().enumerate() {
        let bytes = document.text.len() as u64;
        let fits = |so_far: u64| so_far == 0 || so_far + bytes <= share;
        if Some(i) == largest {
            document.split = Split::Train;
        } else if fits(val) {
            document.split = Split::Val;
            val += bytes;
        } else if fits(last) {
            document.split = Split::Final;
            last += bytes;
        } else {
            document.split = Split::Train;
        }
    }
}

/// All files below a folder. Links are not followed, so a loop cannot hold it
/// and nothing outside of the folder is read.
fn walk(
    root: &Path,
    folder: &Path,
    paths: &mut Vec<PathBuf>,
    skipped: &mut Vec<String>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if kind.is_dir() {
            if walk(root, &path, paths, skipped).is_err() {
                skipped.push(format!("{name}: is a folder that cannot be read"));
            }
        } else if kind.is_file() {
            paths.push(path);
        } else {
            skipped.push(format!("{name}: is a link or a device"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, bytes) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, bytes).expect("written");
        }
        root
    }

    fn text(seed: usize, bytes: usize) -> Vec<u8> {
        format!("text {seed} ").repeat(bytes / 7 + 1).into_bytes()[..bytes].to_vec()
    }

    #[test]
    fn each_way_to_have_no_text_has_its_own_error() {
        assert!(matches!(collect(Path::new("/nonexistent")), Err(CorpusError::NotAFolder { .. })));
        assert!(matches!(collect(folder(&[]).path()), Err(CorpusError::EmptyFolder(_))));
        let binary = folder(&[("a.png", &[0xff, 0xfe])]);
        assert!(matches!(collect(binary.path()), Err(CorpusError::NoText { files: 1, .. })));
        let small = folder(&[("a.txt", b"a"), ("b.txt", b"b"), ("c.txt", b"c")]);
        assert!(matches!(collect(small.path()), Err(CorpusError::TooSmall { bytes: 3, files: 3, .. })));
        let one = folder(&[("a.txt", &text(1, 100_000))]);
        assert!(matches!(collect(one.path()), Err(CorpusError::TooSmall { files: 1, .. })));
    }

    #[test]
    fn what_is_no_text_is_named_and_the_rest_is_taken() {
        let root = folder(&[
            ("a.txt", &text(1, 40_000)),
            ("sub/b.md", &text(2, 40_000)),
            ("c.rs", &text(3, 40_000)),
            ("copy.rs", &text(3, 40_000)),
            ("d.bin", &[0xff, 0xfe]),
            ("e.txt", b""),
        ]);
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).expect("linked");
        let collected = collect(root.path()).expect("collected");
        assert_eq!(collected.documents.len(), 3);
        let mut skipped = collected.skipped;
        skipped.sort();
        assert_eq!(
            skipped,
            [
                "copy.rs: is a copy of another file",
                "d.bin: is not UTF-8 text",
                "e.txt: is empty",
                "link: is a link or a device"
            ]
        );
    }

    #[test]
    fn every_split_has_text_and_the_held_out_ones_a_twentieth_each() {
        for count in [3, 5, 200] {
            let files: Vec<(String, Vec<u8>)> =
                (0..count).map(|i| (format!("{i}.txt"), text(i, 400_000 / count))).collect();
            let files: Vec<(&str, &[u8])> =
                files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            let root = folder(&files);
            let collected = collect(root.path()).expect("collected");
            let bytes = |split| -> usize {
                collected.documents.iter().filter(|d| d.split == split).map(|d| d.text.len()).sum()
            };
            assert!(
                bytes(Split::Train) > 0 && bytes(Split::Val) > 0 && bytes(Split::Final) > 0,
                "{count} files"
            );
            if count == 200 {
                assert_eq!((bytes(Split::Val), bytes(Split::Final)), (20_000, 20_000));
            }
            assert_eq!(collected.id(), collect(root.path()).expect("again").id());
        }
    }
}
