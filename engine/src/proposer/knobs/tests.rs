use super::*;
use crate::ids::{BlobId, CandidateId};
use crate::proposer::Index;
use crate::task::Direction;
use terrarium_sandbox::{KnobRange, KnobScale, KnobValue, Knobs};

fn number(default: f64, low: f64, high: f64, scale: KnobScale) -> KnobRange {
    KnobRange::Number { default, low, high, scale }
}

fn entry(source: &str, knobs: Knobs, score: Option<f64>) -> HistoryEntry {
    let source_id = BlobId::of(source.as_bytes());
    HistoryEntry {
        candidate: CandidateId::of(&source_id, &knobs),
        source: source.into(),
        source_id,
        knobs,
        score,
        seeds: 1,
        outcome_code: if score.is_some() { "finished" } else { "trap" }.into(),
        accepted: false,
        diagnostics: None,
        origin: Origin::baseline(),
        parent: None,
        record: None,
    }
}

fn ten() -> Vec<(String, KnobRange)> {
    let mut space = vec![("lr".to_owned(), number(1e-4, 1e-5, 1e-1, KnobScale::Logarithmic))];
    for k in 0..6 {
        space.push((format!("x{k}"), number(0.1, 0.0, 1.0, KnobScale::Linear)));
    }
    let depth = KnobRange::Integer { default: 2, low: 1, high: 12, scale: KnobScale::Linear };
    let width = KnobRange::Integer { default: 16, low: 8, high: 1024, scale: KnobScale::Logarithmic };
    let choice = KnobRange::Choice { default: 0, options: ["a", "b", "c"].map(String::from).to_vec() };
    space.extend([("depth".into(), depth), ("width".into(), width), ("kind".into(), choice)]);
    space
}

/// A bowl with its best learning rate at 3e-3; the knobs matter unequally.
fn bowl(space: &[(String, KnobRange)], knobs: &Knobs) -> f64 {
    let cube = Space::new(space);
    let best = [0.62, 0.3, 0.7, 0.5, 0.9, 0.2, 0.4, 0.6, 0.55];
    let at = cube.encode(knobs);
    let bowl: f64 =
        at.iter().zip(best).enumerate().map(|(k, (u, b))| (u - b).powi(2) / (1.0 + k as f64 / 2.0)).sum();
    bowl + if knobs.get("kind") == Some(&KnobValue::Choice(2)) { 0.0 } else { 0.1 }
}

fn search(seed: u64, evaluations: u64, random: bool) -> f64 {
    let space = ten();
    let first = entry("s", Knobs::new(), Some(bowl(&space, &Knobs::new())));
    let mut entries = vec![first];
    for k in 1..evaluations {
        let knobs = if random {
            let cube = Space::new(&space);
            cube.decode(&cube.random(&mut SplitMix64::new(crate::seeds::derive(seed, "random", &[k]))))
        } else {
            let best = entries.iter().min_by(|a, b| a.score.unwrap().total_cmp(&b.score.unwrap())).unwrap();
            let history = History {
                direction: Direction::Minimize,
                entries: &entries,
                knob_space: &space,
                index: &Index::of(Direction::Minimize, &entries),
            };
            KnobSearch.propose(&history, best, crate::seeds::derive(seed, "knobs", &[k])).unwrap().knobs
        };
        let score = bowl(&space, &knobs);
        entries.push(entry("s", knobs, Some(score)));
    }
    entries.iter().filter_map(|e| e.score).fold(f64::INFINITY, f64::min)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn it_beats_random_search_at_equal_evaluations() {
    for (evaluations, share) in [(16, 0.9), (64, 0.02)] {
        let of = |random| median((0..15).map(|seed| search(seed, evaluations, random)).collect());
        let (own, random) = (of(false), of(true));
        println!("{evaluations} evaluations: median {own:.4} against {random:.4} at random");
        assert!(own < share * random, "{evaluations}: {own} against {random}");
    }
}

/// Thirty knobs, as a trainer has them, a default in the middle, noise, ten
/// proposals at a time: what is left of the default's loss.
fn wide(seed: u64, generations: u64) -> f64 {
    let space: Vec<_> =
        (0..30).map(|k| (format!("x{k:02}"), number(0.5, 0.0, 1.0, KnobScale::Linear))).collect();
    let cube = Space::new(&space);
    let mut rng = SplitMix64::new(crate::seeds::derive(seed, "task", &[]));
    let best: Vec<f64> = (0..30).map(|_| rng.unit()).collect();
    let loss = |knobs: &Knobs| -> f64 {
        let at = cube.encode(knobs);
        let terms = at.iter().zip(&best).enumerate();
        terms.map(|(k, (u, b))| (u - b).powi(2) / (1.0 + k as f64 / 4.0)).sum()
    };
    let mut entries = vec![entry("s", Knobs::new(), Some(loss(&Knobs::new())))];
    for generation in 0..generations {
        let index = Index::of(Direction::Minimize, &entries);
        let history =
            History { direction: Direction::Minimize, entries: &entries, knob_space: &space, index: &index };
        let parent = &entries[index.best().next().unwrap()];
        let seeds = (0..10).map(|place| crate::seeds::derive(seed, "knobs", &[generation, place]));
        let proposed: Vec<Proposal> =
            seeds.map(|seed| KnobSearch.propose(&history, parent, seed).unwrap()).collect();
        for proposal in proposed {
            let noise = 0.02 * (2.0 * rng.unit() - 1.0);
            let score = loss(&proposal.knobs) + noise;
            entries.push(entry("s", proposal.knobs, Some(score)));
        }
    }
    let index = Index::of(Direction::Minimize, &entries);
    loss(&entries[index.best().next().unwrap()].knobs) / loss(&Knobs::new())
}

#[test]
fn thirty_knobs_with_noise_are_mostly_solved_in_a_hundred_evaluations() {
    let left = median((0..5).map(|seed| wide(seed, 10)).collect());
    println!("{left:.3} of the default's loss is left");
    assert!(left < 0.4, "{left}");
}

#[test]
fn it_is_a_pure_function_and_stays_in_range_with_any_number_of_observations() {
    let space = ten();
    for count in [0usize, 1, 2, 7, 8, 40] {
        let cube = Space::new(&space);
        let mut rng = SplitMix64::new(9);
        let entries: Vec<_> = (0..count)
            .map(|k| entry("s", cube.decode(&cube.random(&mut rng)), (k % 3 > 0).then_some(k as f64)))
            .collect();
        let parent = entry("s", Knobs::new(), Some(1.0));
        let history = History {
            direction: Direction::Maximize,
            entries: &entries,
            knob_space: &space,
            index: &Index::of(Direction::Maximize, &entries),
        };
        for seed in 0..200 {
            let proposal = KnobSearch.propose(&history, &parent, seed).unwrap();
            assert_eq!(Some(&proposal), KnobSearch.propose(&history, &parent, seed).as_ref());
            assert!(!proposal.knobs.is_empty() && !proposal.origin.note.is_empty());
            for (name, value) in &proposal.knobs {
                let range = &space.iter().find(|(n, _)| n == name).unwrap().1;
                match (range, value) {
                    (KnobRange::Number { low, high, .. }, KnobValue::Number(x)) => {
                        assert!(x >= low && x <= high);
                        assert_eq!(*x, space::rounded(*x));
                    }
                    (KnobRange::Integer { low, high, .. }, KnobValue::Integer(x)) => {
                        assert!(x >= low && x <= high)
                    }
                    (KnobRange::Choice { options, .. }, KnobValue::Choice(x)) => {
                        assert!((*x as usize) < options.len())
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn early_steps_are_small() {
    let space = ten();
    let parent = entry("s", Knobs::new(), Some(1.0));
    let history = History {
        direction: Direction::Minimize,
        entries: std::slice::from_ref(&parent),
        knob_space: &space,
        index: &Index::of(Direction::Minimize, std::slice::from_ref(&parent)),
    };
    let few =
        (0..100).filter(|s| KnobSearch.propose(&history, &parent, *s).unwrap().knobs.len() <= 3).count();
    assert!(few > 80, "{few}");
}

#[test]
fn a_knob_that_cannot_vary_is_left_alone_and_an_exhausted_space_ends_the_search() {
    let fixed = vec![
        ("a".to_owned(), number(1.0, 1.0, 1.0, KnobScale::Linear)),
        ("b".to_owned(), number(1.0, f64::NAN, 1.0, KnobScale::Linear)),
        ("c".to_owned(), KnobRange::Choice { default: 0, options: vec![] }),
    ];
    let parent = entry("s", Knobs::new(), Some(1.0));
    let nothing = Index::new(Direction::Minimize);
    let history =
        |space| History { direction: Direction::Minimize, entries: &[], knob_space: space, index: &nothing };
    assert_eq!(KnobSearch.propose(&history(&fixed), &parent, 1), None);
    let bit = vec![(
        "bit".to_owned(),
        KnobRange::Integer { default: 0, low: 0, high: 1, scale: KnobScale::Logarithmic },
    )];
    let proposal = KnobSearch.propose(&history(&bit), &parent, 1).unwrap();
    assert_eq!(proposal.knobs.get("bit"), Some(&KnobValue::Integer(1)));
    let both = [entry("s", proposal.knobs, None)];
    let history = History {
        direction: Direction::Minimize,
        entries: &both,
        knob_space: &bit,
        index: &Index::of(Direction::Minimize, &both),
    };
    assert_eq!(KnobSearch.propose(&history, &parent, 1), None);
    let extreme = vec![
        (
            "i".to_owned(),
            KnobRange::Integer { default: 0, low: i64::MIN, high: i64::MAX, scale: KnobScale::Linear },
        ),
        ("n".to_owned(), number(0.0, f64::MIN, f64::MAX, KnobScale::Logarithmic)),
    ];
    let history = History {
        direction: Direction::Minimize,
        entries: &[],
        knob_space: &extreme,
        index: &Index::of(Direction::Minimize, &[]),
    };
    for seed in 0..50 {
        let knobs = KnobSearch.propose(&history, &parent, seed).unwrap().knobs;
        assert!(crate::candidate::knobs_are_finite(&knobs));
    }
}

#[test]
fn other_sources_help_only_through_the_knobs_they_were_given() {
    let space = vec![("lr".to_owned(), number(0.5, 0.0, 1.0, KnobScale::Linear))];
    let mut entries: Vec<_> = (0..20)
        .map(|k| {
            entry(
                "other",
                Knobs::from([("lr".to_owned(), KnobValue::Number(f64::from(k) / 20.0))]),
                Some((f64::from(k) - 17.0).abs()),
            )
        })
        .collect();
    entries.push(entry("other", Knobs::from([("gone".to_owned(), KnobValue::Integer(3))]), Some(0.0)));
    let parent = entry("mine", Knobs::new(), Some(100.0));
    let history = History {
        direction: Direction::Minimize,
        entries: &entries,
        knob_space: &space,
        index: &Index::of(Direction::Minimize, &entries),
    };
    let near = (0..60)
        .filter_map(|seed| KnobSearch.propose(&history, &parent, seed))
        .filter(|p| p.origin.operator == "model")
        .filter(|p| matches!(p.knobs.get("lr"), Some(KnobValue::Number(x)) if (0.7..=1.0).contains(x)))
        .count();
    assert!(near > 25, "{near}");
}

#[test]
fn a_description_names_the_largest_changes_and_counts_the_others() {
    let space: Vec<_> = (0..9).map(|k| (format!("x{k}"), number(0.0, 0.0, 1.0, KnobScale::Linear))).collect();
    let cube = Space::new(&space);
    let knobs = |count: usize| {
        cube.decode(&(0..9).map(|k| if k < count { k as f64 / 10.0 } else { 0.0 }).collect::<Vec<_>>())
    };
    assert_eq!(cube.describe(&Knobs::new(), &knobs(3)), "x1 0 → 0.1, x2 0 → 0.2");
    let told = cube.describe(&Knobs::new(), &knobs(9));
    assert!(told.starts_with("x8 0 → 0.8, x7") && told.ends_with(", x3 0 → 0.3, and 2 more"), "{told}");
}
