//! A table of numbers, from a CSV file or made.

use crate::seeds::{self, SplitMix64};
use std::collections::BTreeSet;

/// Fewer rows than this have no three splits worth the name.
pub(super) const LEAST_ROWS: usize = 40;
const MOST_ROWS: usize = 200_000;
const MOST_COLUMNS: usize = 1_000;

/// Features row by row, and a label for each row.
pub(super) struct Table {
    pub features: usize,
    pub labels: Vec<f64>,
    values: Vec<f64>,
}

impl Table {
    /// The features of a row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.features..][..self.features]
    }

    /// Reads CSV text. A column where some cell is neither a number nor empty
    /// is one of words: they are numbered in alphabetical order. An empty cell
    /// is NaN; a label must not be empty. `classes`: labels are of two values,
    /// which become 0 and 1 in their order.
    pub fn parse(text: &str, label: Option<&str>, classes: bool) -> Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|e| e.to_string())?.clone();
        let columns = header.len();
        if !(2..=MOST_COLUMNS).contains(&columns) {
            return Err(format!(
                "{columns} columns; a label and 1 to {} features are needed",
                MOST_COLUMNS - 1
            ));
        }
        let at = match label {
            None => columns - 1,
            Some(name) => header.iter().position(|known| known == name).ok_or_else(|| {
                let known = header.iter().take(20).collect::<Vec<_>>().join(", ");
                format!("there is no column `{name}`; the columns are: {known}")
            })?,
        };
        let mut cells: Vec<Vec<String>> = vec![Vec::new(); columns];
        for record in reader.records() {
            // It names the line, and how many cells it has and should have.
            let record = record.map_err(|e| e.to_string())?;
            for (column, cell) in cells.iter_mut().zip(record.iter()) {
                column.push(cell.to_owned());
            }
        }
        let rows = cells[0].len();
        if !(LEAST_ROWS..=MOST_ROWS).contains(&rows) {
            return Err(format!("{rows} rows; {LEAST_ROWS} to {MOST_ROWS} are needed"));
        }
        let mut columns: Vec<Vec<f64>> = cells.iter().map(|column| numbers(column)).collect();
        let mut labels = columns.remove(at);
        if let Some(row) = labels.iter().position(|label| label.is_nan()) {
            return Err(format!("row {}: the label is missing", row + 1));
        }
        if classes {
            let mut known = labels.clone();
            known.sort_by(f64::total_cmp);
            known.dedup();
            let [low, _] = known[..] else {
                return Err(format!("the label has {} values; this score needs two", known.len()));
            };
            labels.iter_mut().for_each(|label| *label = f64::from(*label != low));
        }
        let values = (0..rows).flat_map(|row| columns.iter().map(move |column| column[row])).collect();
        Ok(Self { features: columns.len(), labels, values })
    }

    /// Friedman's first problem (J. H. Friedman, "Multivariate adaptive
    /// regression splines", 1991): ten uniform features of which five matter,
    /// y = 10 sin(π x₁ x₂) + 20 (x₃ − ½)² + 10 x₄ + 5 x₅ + noise of deviation
    /// 1. As classes: whether y is above 14, about its median.
    pub fn friedman(rows: usize, classes: bool) -> Self {
        const FEATURES: usize = 10;
        let mut random = SplitMix64::new(seeds::derive(0, "tabular friedman", &[]));
        let values: Vec<f64> = (0..rows * FEATURES).map(|_| random.unit()).collect();
        let label = |x: &[f64]| {
            let curve = 10.0 * (std::f64::consts::PI * x[0] * x[1]).sin() + 20.0 * (x[2] - 0.5).powi(2);
            // Box and Muller; 1 − unit() is above 0.
            let (u, v) = (1.0 - random.unit(), random.unit());
            let noise = (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos();
            let y = curve + 10.0 * x[3] + 5.0 * x[4] + noise;
            if classes { f64::from(y > 14.0) } else { y }
        };
        let labels = values.as_chunks::<FEATURES>().0.iter().map(|x| x.as_slice()).map(label).collect();
        Self { features: FEATURES, labels, values }
    }
}

/// A column's numbers; where one cell is a word, the number of each word.
fn numbers(column: &[String]) -> Vec<f64> {
    let number = |cell: &str| match cell {
        "" => Some(f64::NAN),
        cell => cell.parse::<f64>().ok().filter(|value| value.is_finite()),
    };
    if let Some(values) = column.iter().map(|cell| number(cell)).collect() {
        return values;
    }
    let words: BTreeSet<&str> = column.iter().map(String::as_str).filter(|cell| !cell.is_empty()).collect();
    let words: Vec<&str> = words.into_iter().collect();
    let place = |cell: &String| words.binary_search(&cell.as_str()).map_or(f64::NAN, |at| at as f64);
    column.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(line: &str) -> String {
        format!("size, colour,\"the \"\"label\"\"\"\n{}", line.repeat(LEAST_ROWS))
    }

    #[test]
    fn numbers_words_and_gaps() {
        let text = rows("1.5, red ,2\n,\"bl,ue\",3\n");
        let table = Table::parse(&text, None, true).unwrap();
        assert_eq!((table.features, table.labels.len()), (2, 2 * LEAST_ROWS));
        assert_eq!((table.row(0), &table.labels[..2]), ([1.5, 1.0].as_slice(), [0.0, 1.0].as_slice()));
        assert!(table.row(1)[0].is_nan() && table.row(1)[1] == 0.0);
        let by_size = Table::parse(&rows("7,red,2\n"), Some("size"), false).unwrap();
        assert!(by_size.labels.iter().all(|label| *label == 7.0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |text: &str, label, classes| Table::parse(text, label, classes).err().unwrap_or_default();
        assert!(said("", None, false).contains("columns"));
        assert!(said("a,b\n1,2\n", None, false).contains("1 rows"));
        assert!(said(&rows("1,red,2\n1,red\n"), None, false).contains("line: 3"));
        assert!(said(&rows("1,red,\n"), None, false).contains("row 1"));
        assert!(said(&rows("1,red,2\n"), None, true).contains("needs two"));
        assert!(said(&rows("1,red,2\n"), Some("weight"), false).contains("size, colour"));
    }
}
