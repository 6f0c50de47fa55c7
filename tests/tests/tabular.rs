//! The template `tabular` behind glass: an honest baseline, cheats, and a
//! table of one's own.

use terrarium_engine::evaluate::{Evaluate, Evaluated, Sandboxed, Split};
use terrarium_engine::task::{self, LoadedTask};
use terrarium_sandbox::{Knobs, Outcome};
use terrarium_tests::glass::sandbox;

fn template() -> LoadedTask {
    task::load("tabular", &task::templates_root()).expect("the template loads")
}

fn evaluate(loaded: &LoadedTask, source: &str, split: Split) -> Evaluated {
    let evaluator = Sandboxed::new(sandbox(), &loaded.task, None, 1).expect("the sandbox is there");
    let built = evaluator.build(source).unwrap_or_else(|e| panic!("{e:?}"));
    evaluator.evaluate(&built, &Knobs::new(), 3, split).expect("the host is well")
}

/// A candidate whose answer is made by this expression from `train`, the
/// labels of the train split, and `n`, how many predictions are wanted.
fn cheat(answer: &str) -> String {
    format!(
        "use terrarium_sdk::{{Function, Result, export_function}};
        #[derive(Default)]
        struct Cheat;
        impl Function for Cheat {{
            fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {{
                let u = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]) as usize;
                let (rows, n, features) = (u(0), u(4), u(8));
                let labels = &input[24 + 8 * rows * features..][..8 * rows];
                let train: Vec<f64> = labels.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect();
                let answer: Vec<f64> = {answer};
                let _ = (&train, n);
                Ok(answer.into_iter().flat_map(f64::to_le_bytes).collect())
            }}
        }}
        export_function!(Cheat);"
    )
}

#[test]
fn the_baseline_is_sensible_on_either_split() {
    let loaded = template();
    for split in [Split::Selection, Split::Final] {
        let result = evaluate(&loaded, &loaded.source, split);
        assert_eq!(result.outcome, Outcome::Finished);
        // The noise has deviation 1; a line explains about three quarters of
        // the labels' variance of 24.
        let score = result.score.unwrap();
        assert!((2.0..3.0).contains(&score), "{split:?}: {score}");
    }
}

#[test]
fn cheats_get_what_they_deserve() {
    let loaded = template();
    let honest = evaluate(&loaded, &loaded.source, Split::Selection).score.unwrap();
    // Allowed, and worth little: a constant, and labels of other rows.
    for answer in ["vec![14.4; n]", "train[..n].to_vec()"] {
        let result = evaluate(&loaded, &cheat(answer), Split::Selection);
        assert!(result.score.unwrap() > 1.5 * honest, "{answer}: {:?} beside {honest}", result.score);
    }
    for answer in ["vec![f64::NAN; n]", "vec![f64::INFINITY; n]", "vec![0.0; n + 1]", "train", "Vec::new()"] {
        let answer = answer.replace("train", "train.clone()");
        let result = evaluate(&loaded, &cheat(&answer), Split::Selection);
        assert!(matches!(result.outcome, Outcome::InvalidOutput { .. }), "{answer}: {:?}", result.outcome);
        assert_eq!(result.score, None);
    }
    // There is no file to read the labels from.
    let answer = "vec![std::fs::read(\"task.toml\").unwrap().len() as f64; n]";
    let result = evaluate(&loaded, &cheat(answer), Split::Selection);
    assert!(matches!(result.outcome, Outcome::Trap { .. }), "{:?}", result.outcome);
}

#[test]
fn a_table_of_ones_own_is_read_and_kept() {
    let root = task::templates_root();
    let folder = tempfile::tempdir().unwrap();
    let toml = std::fs::read_to_string(root.join("tabular/task.toml")).unwrap();
    let toml = toml.replace("rows = 1000", "csv = \"houses.csv\"\nlabel = \"price\"");
    std::fs::write(folder.path().join("task.toml"), toml).unwrap();
    std::fs::create_dir(folder.path().join("candidate")).unwrap();
    std::fs::copy(root.join("tabular/candidate/candidate.rs"), folder.path().join("candidate/candidate.rs"))
        .unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(task::load(path, &root).unwrap_err().to_string().contains("houses.csv"));

    let csv = folder.path().join("houses.csv");
    let rows =
        |count: usize| (0..count).map(|i| format!("{i},{},{}\n", ["old", "new"][i % 2], 3 * i + i % 2));
    std::fs::write(&csv, format!("size,age,price\n{}", rows(30).collect::<String>())).unwrap();
    assert!(task::load(path, &root).unwrap_err().to_string().contains("30 rows"));

    std::fs::write(&csv, format!("size,age,price\n{}", rows(80).collect::<String>())).unwrap();
    let loaded = task::load(path, &root).unwrap();
    let result = evaluate(&loaded, &loaded.source, Split::Final);
    // Linear but for the penalty; prices spread by about 70.
    assert!(result.score.unwrap() < 10.0, "{:?}", result.score);
    // What a run freezes holds the table.
    std::fs::remove_file(&csv).unwrap();
    assert_eq!(evaluate(&loaded, &loaded.source, Split::Final).score, result.score);
}
