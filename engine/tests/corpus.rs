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
