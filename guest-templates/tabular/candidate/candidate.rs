//! Predictions for the rows of a table, from rows whose labels are known.
//!
//! Input, little-endian: rows to train on, rows to predict, features, 1 where
//! labels are two classes (u32 each), a seed (u64); then f64: the features to
//! train on row by row, their labels, the features to predict row by row. A
//! missing value is NaN. Output: a finite f64 for each row to predict.
//!
//! The baseline is ridge regression on standardised features.
//!
//! What lies inside the evolve block may be changed.

use terrarium_sdk::knobs::{self, Logarithmic};
use terrarium_sdk::{Error, Function, Result, export_function};

/// Rows with their features.
struct Rows {
    features: usize,
    values: Vec<f64>,
}

impl Rows {
    fn iter(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.features)
    }
}

/// What is asked: labels of `test`, from `train` and its `labels`.
struct Problem {
    train: Rows,
    labels: Vec<f64>,
    test: Rows,
    /// Labels are 0 and 1, and predictions are probabilities.
    classes: bool,
    #[allow(dead_code)]
    seed: u64,
}

// EVOLVE-BLOCK-START model
/// One prediction for each row of `problem.test`.
fn predict(problem: &Problem) -> Vec<f64> {
    let penalty = knobs::number("penalty", 1.0, 1e-4, 1e4, Logarithmic);
    let scale = Scale::of(&problem.train);
    let train: Vec<Vec<f64>> = problem.train.iter().map(|row| scale.apply(row)).collect();
    let width = problem.train.features + 1;
    // Normal equations: (XᵀX + λI) w = Xᵀy; the constant is not penalised.
    let mut left = vec![vec![0.0; width]; width];
    let mut right = vec![0.0; width];
    for (row, label) in train.iter().zip(&problem.labels) {
        for i in 0..width {
            right[i] += row[i] * label;
            for j in 0..width {
                left[i][j] += row[i] * row[j];
            }
        }
    }
    for (i, line) in left.iter_mut().enumerate().skip(1) {
        line[i] += penalty;
    }
    let weights = solve(left, right);
    let value = |row: &[f64]| scale.apply(row).iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>();
    let predictions = problem.test.iter().map(value);
    if problem.classes { predictions.map(|p| p.clamp(0.01, 0.99)).collect() } else { predictions.collect() }
}

/// Mean and deviation of each feature, without what is missing.
struct Scale(Vec<(f64, f64)>);

impl Scale {
    fn of(rows: &Rows) -> Scale {
        let of_feature = |at: usize| {
            let known: Vec<f64> = rows.iter().map(|row| row[at]).filter(|x| !x.is_nan()).collect();
            let count = known.len().max(1) as f64;
            let mean = known.iter().sum::<f64>() / count;
            let variance = known.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
        };
        Scale((0..rows.features).map(of_feature).collect())
    }

    /// A constant, then the features; a missing one is the mean.
    fn apply(&self, row: &[f64]) -> Vec<f64> {
        let standardised = row.iter().zip(&self.0).map(|(x, (mean, deviation))| {
            if x.is_nan() { 0.0 } else { (x - mean) / deviation }
        });
        std::iter::once(1.0).chain(standardised).collect()
    }
}

/// Gauss's elimination with the largest pivot of each column.
fn solve(mut left: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for column in 0..n {
        let size = |row: &usize| left[*row][column].abs();
        let pivot = (column..n).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
        left.swap(column, pivot);
        right.swap(column, pivot);
        if left[column][column] == 0.0 {
            continue;
        }
        for row in column + 1..n {
            let factor = left[row][column] / left[column][column];
            for k in column..n {
                left[row][k] -= factor * left[column][k];
            }
            right[row] -= factor * right[column];
        }
    }
    let mut solution = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| left[row][k] * solution[k]).sum();
        solution[row] = if left[row][row] == 0.0 { 0.0 } else { (right[row] - known) / left[row][row] };
    }
    solution
}
// EVOLVE-BLOCK-END

#[derive(Default)]
struct Tabular;

impl Function for Tabular {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        let problem = read(input).ok_or_else(|| Error::invalid("the input is no problem of this task"))?;
        Ok(predict(&problem).into_iter().flat_map(f64::to_le_bytes).collect())
    }
}

fn read(input: &[u8]) -> Option<Problem> {
    let (head, rest) = input.split_at_checked(24)?;
    let number = |at: usize| Some(u32::from_le_bytes(head.get(4 * at..4 * at + 4)?.try_into().ok()?) as usize);
    let (train, test, features) = (number(0)?, number(1)?, number(2)?);
    let (classes, seed) = (number(3)? == 1, u64::from_le_bytes(head[16..].try_into().ok()?));
    let wanted = 8 * (train * (features + 1) + test * features);
    if features == 0 || rest.len() != wanted {
        return None;
    }
    let all: Vec<f64> = rest.chunks_exact(8).filter_map(|c| Some(f64::from_le_bytes(c.try_into().ok()?))).collect();
    let (values, all) = all.split_at(train * features);
    let (labels, unknown) = all.split_at(train);
    Some(Problem {
        train: Rows { features, values: values.to_vec() },
        labels: labels.to_vec(),
        test: Rows { features, values: unknown.to_vec() },
        classes,
        seed,
    })
}

export_function!(Tabular);
