//! The problems with published figures, as a user meets them: every template
//! is evaluated behind glass, and what comes one by one comes one by one.

use terrarium_engine::evaluate::{Evaluate, Sandboxed, Split};
use terrarium_engine::task::{self, LoadedTask};
use terrarium_sandbox::{Evaluation, Job, Knobs, Outcome, Product, Report, World};
use terrarium_tests::glass::{guest, sandbox, small_limits};

fn published() -> Vec<LoadedTask> {
    let root = task::templates_root();
    let load = |name: &String| task::load(name, &root).unwrap_or_else(|e| panic!("{name}: {e}"));
    task::templates(&root).iter().map(load).filter(|loaded| loaded.task.published.is_some()).collect()
}

#[test]
fn every_template_with_a_published_figure_is_scored_behind_glass() {
    let all = published();
    assert!(all.len() >= 15, "{}", all.len());
    for loaded in all {
        let name = &loaded.task.header.name;
        let figure = loaded.task.published.as_ref().map(|p| p.value).unwrap();
        let evaluator = Sandboxed::new(sandbox(), &loaded.task, None, 1).unwrap();
        let built = evaluator.build(&loaded.source).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let result = evaluator.evaluate(&built, &Knobs::new(), 1, Split::Selection).unwrap();
        assert_eq!(result.outcome, Outcome::Finished, "{name}");
        assert!(!result.knobs.is_empty(), "{name} has no knobs");
        let fuel = result.usage.fuel;
        let score = result.normalised().score.unwrap();
        // A baseline is no record: it is worse than what was published, or
        // with luck about as good.
        let gain = loaded.task.header.metric.direction.gain(score, figure);
        assert!(gain <= 1e-3 * figure.abs(), "{name}: {score} beside {figure}");
        assert!(score > 0.0, "{name}: {score}");
        println!("{name}: {score}, fuel {fuel:?}");
    }
}

fn calls(inputs: Vec<Vec<u8>>, output_bytes: u64) -> Report {
    let component = guest("memory", World::Function);
    let evaluation = Evaluation {
        seed: 1,
        probe_key: 1,
        knobs: Knobs::new(),
        job: Job::Calls { inputs },
        limits: terrarium_sandbox::Limits { output_bytes, ..small_limits() },
    };
    sandbox().run(&component, &evaluation).unwrap()
}

#[test]
fn a_sequence_of_calls_shows_nothing_of_what_is_to_come() {
    let inputs = vec![vec![7], vec![8, 8], vec![9]];
    for _ in 0..2 {
        // Twice in the same worker: the second remembers nothing of the first.
        let report = calls(inputs.clone(), 100);
        let answers = vec![vec![0], vec![1, 7], vec![2, 8, 8]];
        assert_eq!((report.outcome, report.product), (Outcome::Finished, Some(Product::Outputs(answers))));
    }
    assert_eq!(calls(Vec::new(), 100).product, Some(Product::Outputs(Vec::new())));
    // The limit holds for all answers together: 1 + 2 + 3 bytes.
    assert_eq!(calls(inputs.clone(), 6).outcome, Outcome::Finished);
    assert_eq!(calls(inputs, 5).outcome, Outcome::OutputTooLarge { bytes: 6, limit: 5 });
}

/// Puts two items into a bin that has room for one.
const OVERFULL: &str = "\
use terrarium_sdk::{Function, Result, export_function};
#[derive(Default)]
struct Cheat;
impl Function for Cheat {
    fn call(&mut self, _: &[u8]) -> Result<Vec<u8>> { Ok(0u32.to_le_bytes().to_vec()) }
}
export_function!(Cheat);
";

#[test]
fn a_packer_that_overfills_a_bin_has_no_score() {
    let loaded = task::load("bin-packing-or3", &task::templates_root()).unwrap();
    let evaluator = Sandboxed::new(sandbox(), &loaded.task, None, 1).unwrap();
    let built = evaluator.build(OVERFULL).unwrap();
    let result = evaluator.evaluate(&built, &Knobs::new(), 1, Split::Selection).unwrap();
    let Outcome::InvalidOutput { reason } = &result.outcome else { panic!("{:?}", result.outcome) };
    assert!(reason.contains("has room for"), "{reason}");
    assert_eq!(result.score, None);
}
