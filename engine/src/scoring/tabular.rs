//! Prediction from a table: the candidate gets a train split with its labels
//! and the features of a test split, and returns a prediction for each row of
//! the latter. The labels of the test split never leave the host.
//!
//! A quarter of all rows, the same for every seed, is the final split. Of the
//! rest each seed draws another quarter as the test split of the selection
//! (repeated random subsampling) and trains on what is left; the final split
//! is predicted from a train split of the same size. So a search never sees
//! the labels of the rows that its winner is judged on.
//!
//! A call's input, little-endian: rows to train on and rows to predict (u32),
//! features (u32), 1 where labels are two classes and else 0 (u32), a seed
//! (u64); then f64: the features to train on row by row, their labels, the
//! features to predict row by row. A missing value is NaN. The output is a
//! finite f64 for each row to predict, in their order.

mod metric;
mod table;

pub use metric::Metric;

use super::numbers::doubles;
use super::{Fault, Scoring, invalid};
use crate::evaluate::Split;
use crate::seeds::{self, SplitMix64};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use table::Table;
use terrarium_sandbox::{Job, Outcome, Product};

/// The problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tabular {
    /// What a prediction is worth.
    pub score: Metric,
    /// A CSV file with a header, beside `task.toml`; without it, rows of
    /// Friedman's first problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<PathBuf>,
    /// The column with the labels; the last where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Rows that are made where there is no file: 40 to 20 000.
    #[serde(default = "default_rows")]
    pub rows: u32,
    /// The file's text, once it was read: a run keeps it, so that it can be
    /// resumed and verified without the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

fn default_rows() -> u32 {
    1_000
}

/// Which rows are trained on and which are predicted.
struct Parts {
    train: Vec<usize>,
    test: Vec<usize>,
}

impl Tabular {
    fn table(&self) -> Result<Table, String> {
        match (&self.text, &self.csv) {
            (Some(text), _) => Table::parse(text, self.label.as_deref(), self.score.is_of_classes()),
            (None, Some(file)) => Err(format!("{} was not read", file.display())),
            (None, None) => Ok(Table::friedman(self.rows as usize, self.score.is_of_classes())),
        }
    }

    fn input(&self, table: &Table, seed: u64, split: Split) -> Vec<u8> {
        let Parts { train, test } = parts(table.labels.len(), seed, split);
        let classes = u32::from(self.score.is_of_classes());
        let head = [train.len() as u32, test.len() as u32, table.features as u32, classes];
        let mut input: Vec<u8> = head.into_iter().flat_map(u32::to_le_bytes).collect();
        input.extend(seed.to_le_bytes());
        let of = |rows: &[usize]| rows.iter().flat_map(|&row| table.row(row).to_vec()).collect::<Vec<f64>>();
        let labels: Vec<f64> = train.iter().map(|&row| table.labels[row]).collect();
        for values in [of(&train), labels, of(&test)] {
            input.extend(values.into_iter().flat_map(f64::to_le_bytes));
        }
        input
    }
}

/// Splits `rows` rows. The final split does not depend on the seed.
fn parts(rows: usize, seed: u64, split: Split) -> Parts {
    let mut all: Vec<usize> = (0..rows).collect();
    shuffle(&mut all, seeds::derive(0, "tabular final split", &[rows as u64]));
    let last = all.split_off(rows - rows / 4);
    shuffle(&mut all, seeds::derive(seed, "tabular selection split", &[]));
    let test = all.split_off(all.len() - rows / 4);
    Parts { train: all, test: if split == Split::Final { last } else { test } }
}

/// Fisher and Yates.
fn shuffle(rows: &mut [usize], seed: u64) {
    let mut random = SplitMix64::new(seed);
    for last in (1..rows.len()).rev() {
        rows.swap(last, random.below(last + 1));
    }
}

impl Scoring for Tabular {
    fn fault(&self) -> Option<Fault> {
        if !(table::LEAST_ROWS as u32..=20_000).contains(&self.rows) {
            let what = format!("rows = {} is out of range: {}..=20000", self.rows, table::LEAST_ROWS);
            return Some(("rows", what, "1000 is a good start"));
        }
        // A file that was named and not read yet is looked at when it was.
        self.text.as_ref()?;
        let what = self.table().err()?;
        Some(("csv", what, "a header, commas, a number or a word in each cell, labels in the last column"))
    }

    fn jobs(&self, seed: u64, split: Split) -> Vec<Job> {
        // `fault` has read the same text.
        let Ok(table) = self.table() else { return Vec::new() };
        vec![Job::Call { input: self.input(&table, seed, split) }]
    }

    fn score(&self, products: &[Product], seed: u64, split: Split) -> Result<f64, Outcome> {
        let [Product::Output(bytes)] = products else {
            return Err(invalid("the candidate was not called exactly once".into()));
        };
        let table = self.table().map_err(invalid)?;
        let Parts { test, .. } = parts(table.labels.len(), seed, split);
        let predictions = doubles(bytes, test.len(), "predictions").map_err(invalid)?;
        let labels: Vec<f64> = test.iter().map(|&row| table.labels[row]).collect();
        self.score.of(&predictions, &labels).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(score: Metric) -> Tabular {
        Tabular { score, csv: None, label: None, rows: 400, text: None }
    }

    fn scored(task: &Tabular, predictions: impl IntoIterator<Item = f64>) -> Result<f64, Outcome> {
        let output = predictions.into_iter().flat_map(f64::to_le_bytes).collect();
        task.score(&[Product::Output(output)], 7, Split::Selection)
    }

    fn labels(task: &Tabular, split: Split) -> Vec<f64> {
        let table = task.table().unwrap();
        parts(table.labels.len(), 7, split).test.iter().map(|&row| table.labels[row]).collect()
    }

    #[test]
    fn splits_are_apart_and_the_final_one_is_never_drawn_for_another() {
        let last = parts(401, 0, Split::Final).test;
        for seed in 0..50 {
            let selection = parts(401, seed, Split::Selection);
            let judged = parts(401, seed, Split::Final);
            assert_eq!(judged.test, last);
            assert_eq!((selection.train.len(), selection.test.len(), last.len()), (201, 100, 100));
            let mut all = [selection.train, selection.test, last.clone()].concat();
            all.sort_unstable();
            assert_eq!(all, (0..401).collect::<Vec<_>>());
            assert!(judged.train.iter().all(|row| !last.contains(row)));
        }
    }

    #[test]
    fn hidden_labels_are_not_in_the_input() {
        let task = made(Metric::Rmse);
        let table = task.table().unwrap();
        for split in [Split::Selection, Split::Final] {
            let mut other = task.table().unwrap();
            for row in parts(400, 7, split).test {
                other.labels[row] = 1e6;
            }
            assert_eq!(task.input(&table, 7, split), task.input(&other, 7, split));
        }
    }

    #[test]
    fn what_does_not_predict_is_worth_little_or_nothing() {
        let task = made(Metric::Rmse);
        let truth = labels(&task, Split::Selection);
        let mean = truth.iter().sum::<f64>() / truth.len() as f64;
        assert_eq!(scored(&task, truth.clone()), Ok(0.0));
        let constant = scored(&task, truth.iter().map(|_| mean)).unwrap();
        assert!((4.0..6.0).contains(&constant), "Friedman's labels spread by about 5: {constant}");
        let mut turned = truth.clone();
        turned.rotate_left(1);
        assert!(scored(&task, turned).unwrap() > constant);
        for bad in [
            scored(&task, truth.iter().map(|_| f64::NAN)),
            scored(&task, truth.iter().map(|_| f64::INFINITY)),
            scored(&task, truth[1..].to_vec()),
            scored(&task, truth.iter().copied().chain([0.0])),
            scored(&task, []),
        ] {
            assert!(matches!(bad, Err(Outcome::InvalidOutput { .. })), "{bad:?}");
        }
        assert!(scored(&task, truth.iter().map(|_| f64::MAX)).is_err(), "a score must be finite");
    }

    #[test]
    fn classes_are_predicted_from_the_same_rows() {
        for score in [Metric::Auc, Metric::LogLoss] {
            let task = made(score);
            let truth = labels(&task, Split::Final);
            assert!(truth.contains(&0.0) && truth.contains(&1.0));
            let jobs = task.jobs(7, Split::Final);
            let [Job::Call { input }] = &jobs[..] else { panic!() };
            assert_eq!(input[..16], [200u32, 100, 10, 1].map(u32::to_le_bytes).concat());
            assert_eq!(input.len(), 24 + 8 * (200 * 11 + 100 * 10));
        }
    }
}
