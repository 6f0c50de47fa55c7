//! What predictions are worth.

use serde::{Deserialize, Serialize};

/// A metric over all predicted rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Root of the mean squared error; lower is better.
    Rmse,
    /// Mean absolute error; lower is better.
    Mae,
    /// Mean −ln of the probability given to the class that it is, labels 0 and
    /// 1; lower is better. Probabilities are kept 10⁻¹⁵ away from 0 and 1.
    LogLoss,
    /// Area under the receiver operating characteristic, labels 0 and 1;
    /// higher is better. Ties count half (Mann and Whitney 1947).
    Auc,
}

/// As far as a probability may lie from certainty (Kaggle's choice).
const CERTAIN: f64 = 1e-15;

impl Metric {
    /// Whether labels are 0 and 1.
    pub fn is_of_classes(self) -> bool {
        matches!(self, Self::LogLoss | Self::Auc)
    }

    /// Its value. Both slices have the same length and are finite.
    pub(super) fn of(self, predictions: &[f64], labels: &[f64]) -> Result<f64, String> {
        let mean = |term: &dyn Fn(f64, f64) -> f64| {
            let sum: f64 = predictions.iter().zip(labels).map(|(p, y)| term(*p, *y)).sum();
            sum / labels.len() as f64
        };
        let value = match self {
            Self::Rmse => mean(&|p, y| (p - y) * (p - y)).sqrt(),
            Self::Mae => mean(&|p, y| (p - y).abs()),
            Self::LogLoss => {
                if let Some(at) = predictions.iter().position(|p| !(0.0..=1.0).contains(p)) {
                    return Err(format!("prediction {at} is no probability: it must lie in 0..=1"));
                }
                mean(&|p, y| {
                    let p = p.clamp(CERTAIN, 1.0 - CERTAIN);
                    -if y > 0.5 { p.ln() } else { (1.0 - p).ln() }
                })
            }
            Self::Auc => area(predictions, labels)?,
        };
        if value.is_finite() { Ok(value) } else { Err("the predictions are too large to be scored".into()) }
    }
}

fn area(predictions: &[f64], labels: &[f64]) -> Result<f64, String> {
    let mut ranked: Vec<(f64, bool)> = predictions.iter().zip(labels).map(|(p, y)| (*p, *y > 0.5)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Twice the pairs in the right order, in integers. −0 equals 0.
    let (mut twice, mut below) = (0u64, 0u64);
    for tied in ranked.chunk_by(|a, b| a.0 == b.0) {
        let ones = tied.iter().filter(|(_, one)| *one).count() as u64;
        let zeros = tied.len() as u64 - ones;
        twice += ones * (2 * below + zeros);
        below += zeros;
    }
    let ones = ranked.len() as u64 - below;
    if ones == 0 || below == 0 {
        return Err("the rows to predict are all of one class".into());
    }
    Ok(twice as f64 / (2 * ones * below) as f64)
}

#[cfg(test)]
mod tests {
    use super::Metric::{Auc, LogLoss, Mae, Rmse};

    #[test]
    fn values_by_hand() {
        let y = [0.0, 0.0, 1.0, 1.0];
        assert_eq!(Rmse.of(&[3.0, 0.0, 1.0, 5.0], &y), Ok(2.5));
        assert_eq!(Mae.of(&[3.0, 0.0, 1.0, 5.0], &y), Ok(1.75));
        // scikit-learn's own example of roc_auc_score.
        assert_eq!(Auc.of(&[0.1, 0.4, 0.35, 0.8], &y), Ok(0.75));
        assert_eq!(Auc.of(&[0.5; 4], &y), Ok(0.5));
        assert_eq!(Auc.of(&[0.0, -0.0, 0.0, -0.0], &y), Ok(0.5));
        assert!((LogLoss.of(&[0.5; 4], &y).unwrap() - 2f64.ln()).abs() < 1e-15);
        assert!(LogLoss.of(&[1.0, 0.0, 1.0, 1.0], &y).unwrap() < 9.0);
        assert!(LogLoss.of(&[1.1, 0.0, 1.0, 1.0], &y).is_err());
        assert!(Auc.of(&[0.5; 2], &[1.0, 1.0]).is_err());
        assert!(Rmse.of(&[1e300; 4], &y).is_err());
    }
}
