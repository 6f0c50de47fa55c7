//! The default corpus, from the sources that cargo fetches.

use terrarium_engine::corpus::{self, Manifest};
use terrarium_sandbox::toolchain::Dirs;

#[test]
fn the_default_corpus_is_large_split_by_crate_and_the_same_every_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let templates = Dirs::from_env().expect("folders").templates;
    let make = |name: &str| {
        let dirs = Dirs { cache: folder.path().join(name), templates: templates.clone() };
        let corpus = corpus::default_corpus(&dirs, &mut |line| println!("{line}")).expect("prepared");
        let again = corpus::default_corpus(&dirs, &mut |line| panic!("made again: {line}")).expect("found");
        assert_eq!(corpus, again);
        let text = std::fs::read(corpus.train.with_file_name("corpus.json")).expect("the manifest");
        (corpus, serde_json::from_slice::<Manifest>(&text).expect("the manifest"))
    };
    let (corpus, manifest) = make("one");
    let (_, second) = make("two");
    assert_eq!(manifest, second);
    println!("{manifest:#?}");
    let bytes: Vec<u64> = manifest.shards.iter().map(|shard| shard.bytes).collect();
    let total: u64 = bytes.iter().sum();
    assert!(total >= 10_000_000, "{total}");
    for held_out in &manifest.shards[1..] {
        let share = held_out.bytes as f64 / total as f64;
        assert!((0.03..0.08).contains(&share), "{} is {share:.3} of the whole", held_out.file);
        assert!(held_out.crates.len() >= 3);
    }
    if let Some(bits) = corpus.xz_bits_per_byte.val {
        assert!((0.5..3.0).contains(&bits), "{bits}");
    }
}

/// A folder of words that a linear congruential generator (Knuth's MMIX) makes
/// up: about `bytes` in 40 files.
fn made_up(folder: &std::path::Path, bytes: usize) {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for file in 0..40 {
        let mut text = String::new();
        while text.len() < bytes / 40 {
            for _ in 0..1 + next() % 4 {
                text.push_str(["fo", "re", "st", "mo", "ss", "ün", "da", "li"][next() % 8]);
            }
            text.push_str([" ", " ", " ", ", ", ".\n"][next() % 5]);
        }
        std::fs::write(folder.join(format!("{file}.txt")), text).expect("written");
    }
}

fn dirs(cache: &std::path::Path) -> Dirs {
    Dirs { cache: cache.to_owned(), templates: Dirs::from_env().expect("folders").templates }
}

const VOCABULARY: u32 = 700;

fn prepare(
    text: &std::path::Path,
    cache: &std::path::Path,
    progress: &mut dyn FnMut(&str),
) -> corpus::Corpus {
    let dirs = dirs(cache);
    let bytes = corpus::from_dir(text, &dirs, progress).expect("prepared");
    corpus::with_vocabulary(bytes, VOCABULARY, &dirs, progress).expect("encoded")
}

const CHILD: &str = "TERRARIUM_TEST_PREPARES";

/// Not a test of its own: the process that the next one kills.
#[test]
#[ignore = "a process of the test below, which starts and kills it: cargo test --release --workspace --test corpus killed"]
fn child_that_prepares() {
    let Some(paths) = std::env::var_os(CHILD) else { return };
    let paths: Vec<_> = std::env::split_paths(&paths).collect();
    prepare(&paths[0], &paths[1], &mut |line| eprintln!("{line}"));
}

#[test]
fn a_preparation_that_was_killed_goes_on_and_gives_the_same_files() {
    use std::io::BufRead;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).expect("created");
        path
    };
    let text = path("text");
    // Train has 3 pieces, the others one each.
    made_up(&text, 12 << 20);
    let undisturbed = prepare(&text, &path("one"), &mut |_| {});

    let cache = path("two");
    let mut seen = Vec::new();
    for die_at in ["training a vocabulary", "encoding train.bin, piece 2", "encoding val.bin", "-"] {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_that_prepares", "--ignored", "--nocapture"])
            .env(CHILD, std::env::join_paths([&text, &cache]).expect("paths"))
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("started");
        let lines = std::io::BufReader::new(child.stderr.take().expect("its messages")).lines();
        for line in lines.map_while(Result::ok) {
            let now = line.starts_with(die_at);
            seen.push(line);
            if now {
                // SIGKILL.
                child.kill().expect("killed");
                break;
            }
        }
        child.wait().expect("gone");
    }
    let count = |word: &str| seen.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!(count("training a vocabulary"), 2, "the first was killed: {seen:#?}");
    assert_eq!(count("encoding train.bin, piece 1"), 1, "what was done is not done again: {seen:#?}");
    assert_eq!(count("encoding train.bin, piece 2"), 2, "{seen:#?}");
    assert!(count("found the vocabulary") >= 2, "{seen:#?}");

    let resumed = prepare(&text, &cache, &mut |line| panic!("done again: {line}"));
    assert_eq!(resumed.vocabulary, VOCABULARY);
    let files = |corpus: &corpus::Corpus| -> Vec<Vec<u8>> {
        let table = corpus.token_bytes.clone().expect("not bytes");
        [&corpus.train, &corpus.val, &corpus.final_split, &table]
            .map(|path| std::fs::read(path).expect("read"))
            .into()
    };
    assert!(files(&undisturbed) == files(&resumed), "the same files, bit by bit");
    let left: Vec<_> = std::fs::read_dir(cache.join("corpus")).expect("read").flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".part")), "{left:?}");

    // The tokens stand for every byte of the text, in each split.
    let text = std::fs::read(resumed.train.with_file_name("corpus.json")).expect("the manifest");
    let manifest: Manifest = serde_json::from_slice(&text).expect("the manifest");
    let bytes = corpus::from_dir(&folder.path().join("text"), &dirs(&cache), &mut |_| {}).expect("found");
    for (shard, path) in manifest.shards.iter().zip([&bytes.train, &bytes.val, &bytes.final_split]) {
        let count = shard.tokens.expect("counted");
        assert_eq!(count.text_bytes, std::fs::metadata(path).expect("there").len(), "{}", shard.file);
        assert_eq!(shard.bytes, 2 * count.tokens);
        assert!(count.tokens < count.text_bytes / 2, "{count:?}");
    }
}

#[test]
fn a_vocabulary_that_the_text_cannot_fill_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text");
    std::fs::create_dir(&text).expect("created");
    made_up(&text, 200_000);
    let dirs = dirs(&folder.path().join("cache"));
    let bytes = corpus::from_dir(&text, &dirs, &mut |_| {}).expect("prepared");
    let refused = |vocabulary| {
        corpus::with_vocabulary(bytes.clone(), vocabulary, &dirs, &mut |_| {}).expect_err("refused")
    };
    assert!(matches!(refused(255), corpus::CorpusError::Vocabulary { asked: 255 }));
    let corpus::CorpusError::VocabularyTooLarge { asked: 1_000_000, got } = refused(1_000_000) else {
        panic!("another error");
    };
    assert!((300..100_000).contains(&got), "{got}");
    let same = corpus::with_vocabulary(bytes.clone(), 256, &dirs, &mut |_| {}).expect("bytes");
    assert_eq!(same, bytes);
}
