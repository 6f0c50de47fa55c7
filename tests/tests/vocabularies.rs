//! Tokens that are not bytes: the score is bits per byte of the text all the
//! same, and the probes hold.

use terrarium_sandbox::{Component, HeldOut, Job, Outcome, Report, Shards, World};
use terrarium_tests::glass::{self, guest, held_out, small_limits, training};

/// Shards of these tokens, 2 bytes each, with the bytes that each stands for.
fn shards(folder: &tempfile::TempDir, tokens: &[u16], token_bytes: &[u32]) -> Shards {
    let write = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let shard = write("tokens.bin", tokens.iter().flat_map(|t| t.to_le_bytes()).collect());
    let table = write("token_bytes.bin", token_bytes.iter().flat_map(|n| n.to_le_bytes()).collect());
    Shards { train: shard.clone(), held_out: shard, token_bytes: Some(table) }
}

fn run(component: &Component, shards: &Shards, key: u64) -> Report {
    let mut evaluation = training(key, small_limits());
    evaluation.limits.device_fuel = 2_000_000_000;
    evaluation.limits.device_bytes = 256 << 20;
    evaluation.limits.wall_ms = 60_000;
    evaluation.job = Job::Train { shards: shards.clone(), held_out: glass::SCORING };
    glass::sandbox().run(component, &evaluation).expect("the host is well")
}

/// Tokens of a vocabulary of 300 that follow one another by chance.
fn by_chance(count: u64) -> Vec<u16> {
    let mut state = 7u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % 300) as u16
        })
        .collect()
}

#[test]
fn bits_are_counted_per_byte_of_text_and_not_per_token() {
    // Four tokens of 1, 4, 2 and 3 bytes in turn. Any window of 16 predicted
    // tokens stands for 4·(1 + 4 + 2 + 3) = 40 bytes; a uniform guess costs 2
    // bits a token: 16 windows · 16 tokens · 2 bits / 640 bytes = 0.8.
    let HeldOut { context, windows, .. } = glass::SCORING;
    assert_eq!((context, windows), (16, 16));
    let folder = tempfile::tempdir().expect("a folder");
    let tokens: Vec<u16> = (0..4000).map(|n| n % 4).collect();
    let report = run(&guest("uniform", World::Trainer), &shards(&folder, &tokens, &[1, 4, 2, 3]), 1);
    let score = held_out(&report);
    assert_eq!(score.bytes, 640);
    assert!((score.bits_per_byte - 0.8).abs() < 1e-12, "{}", score.bits_per_byte);
    // The same guess over a text of one byte a token: 2 bits per byte. In files
    // of its own: a worker takes a shard that it has read to stay as it is.
    let folder = tempfile::tempdir().expect("a folder");
    let report = run(&guest("uniform", World::Trainer), &shards(&folder, &tokens, &[1; 4]), 1);
    assert!((held_out(&report).bits_per_byte - 2.0).abs() < 1e-12);
}

#[test]
fn the_gpt_template_trains_on_any_vocabulary_and_is_not_accused() {
    let component = glass::build(&glass::template("gpt"), World::Trainer).expect("the template builds");
    let folder = tempfile::tempdir().expect("a folder");
    let shards = shards(&folder, &by_chance(20_000), &[2; 300]);
    let first = run(&component, &shards, 0);
    assert!(first.metrics.iter().any(|m| m.name == "steps" && m.value >= 1.0), "{:?}", first.metrics);
    for key in 1..6 {
        assert_eq!(held_out(&run(&component, &shards, key)), held_out(&first), "key {key}");
    }
}

#[test]
fn who_looks_ahead_in_a_larger_vocabulary_is_caught() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/escape/scores/looks_ahead.rs");
    let source =
        std::fs::read_to_string(path).expect("the attack").replace("256", "300").replace("257", "301");
    let component = glass::build(&source, World::Trainer).expect("it builds");
    let folder = tempfile::tempdir().expect("a folder");
    let shards = shards(&folder, &by_chance(20_000), &[2; 300]);
    for key in 0..12 {
        let report = run(&component, &shards, key);
        assert!(matches!(report.outcome, Outcome::ProbeFailed { .. }), "key {key}: {:?}", report.outcome);
    }
}

#[test]
fn a_damaged_shard_is_named_and_never_scored() {
    let folder = tempfile::tempdir().expect("a folder");
    let shards = shards(&folder, &[4; 4000], &[1; 4]);
    match run(&guest("uniform", World::Trainer), &shards, 1).outcome {
        Outcome::Rejected { reason } => {
            assert!(reason.contains("tokens.bin: token 0 is not in the vocabulary of 4"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
