//! What a run found, in plain words. Page and terminal say the same.

use super::figures::{Decimals, of, percent};
use super::{ReportData, Status};
use crate::gate::Gain;
use crate::ledger::{FinalComparison, ScoreSummary, StopReason};
use crate::task::Direction;

/// Where the winner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Better than the baseline: the interval lies above zero.
    Better,
    /// The interval holds zero.
    Undecided,
    /// Worse than the baseline: the interval lies below zero.
    Worse,
    /// Nothing was kept, so there is nothing to compare.
    Unchanged,
    /// There is no final comparison, or not enough of one.
    Unknown,
}

/// A verdict in a few words, and in a paragraph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where the winner stands.
    pub standing: Standing,
    /// The headline.
    pub headline: String,
    /// One sentence each.
    pub sentences: Vec<String>,
}

impl Verdict {
    /// The verdict on a run.
    pub fn of(data: &ReportData) -> Self {
        let speaker = Speaker { data, decimals: Decimals::of(data) };
        let (standing, headline, mut sentences) = match &data.comparison {
            None => speaker.unfinished(),
            Some(comparison) => speaker.finished(comparison),
        };
        sentences.extend(speaker.xz());
        sentences.extend(speaker.stopped());
        sentences.extend(
            data.ledger
                .broken
                .as_ref()
                .map(|what| format!("The ledger is broken at {what}: do not rely on this record.")),
        );
        Self { standing, headline, sentences }
    }

    /// All sentences.
    pub fn paragraph(&self) -> String {
        self.sentences.join(" ")
    }
}

/// Mean of the scores that there are, with half its 95 % Student interval
/// from two scores on.
pub(super) fn spread(summary: &ScoreSummary) -> Option<(f64, Option<f64>)> {
    let present: Vec<f64> = summary.scores.iter().flatten().copied().collect();
    let half = Gain::of(&present, 0.0).map(|g| (g.high - g.low) / 2.0);
    Some((summary.mean?, half))
}

struct Speaker<'a> {
    data: &'a ReportData,
    decimals: Decimals,
}

impl Speaker<'_> {
    fn finished(&self, comparison: &FinalComparison) -> (Standing, String, Vec<String>) {
        let metric = &self.data.metric.name;
        let unseen = if self.data.run.held_out_files {
            "files and seeds that no decision saw"
        } else {
            "seeds that no decision saw"
        };
        let baseline = self.decimals.optional(comparison.baseline.mean);
        if comparison.best.candidate == comparison.baseline.candidate {
            let tried = self.data.points.len().saturating_sub(1) as u64;
            let mut said = vec![format!(
                "None of the {} was better than the baseline beyond noise.",
                of(tried, "candidate tried", "candidates tried")
            )];
            if comparison.baseline.mean.is_some() {
                said.push(format!("The baseline's {metric} is {baseline} on {unseen}."));
            }
            return (Standing::Unchanged, "Nothing was kept".into(), said);
        }
        let best = self.decimals.optional(comparison.best.mean);
        let mut said = vec![format!(
            "On {unseen}, the best candidate's {metric} is {best}; the baseline's is {baseline}."
        )];
        let Some(gain) = &comparison.gain else {
            said.push(
                "Fewer than two pairs of these evaluations finished, so no interval can be given.".into(),
            );
            return (Standing::Unknown, "Too few final evaluations finished".into(), said);
        };
        said.push(self.difference(gain, comparison.baseline.mean));
        let (standing, headline) = if gain.low > 0.0 {
            said.push("The interval lies above zero: the gain is beyond noise.".into());
            (Standing::Better, "Better than the baseline, beyond noise")
        } else if gain.high < 0.0 {
            said.push(
                "The interval lies below zero: what selection preferred is worse here, so nothing is kept."
                    .into(),
            );
            (Standing::Worse, "Worse than the baseline")
        } else {
            said.push("The interval holds zero: the difference may be noise, so nothing is kept.".into());
            (Standing::Undecided, "No difference beyond noise")
        };
        (standing, headline.into(), said)
    }

    /// "It is lower by 0.1069 (4.4 %), with a 95 % interval of 0.09 to 0.12
    /// over 5 paired seeds."
    fn difference(&self, gain: &Gain, baseline: Option<f64>) -> String {
        let word = match (self.data.metric.direction, gain.mean < 0.0) {
            (Direction::Minimize, false) | (Direction::Maximize, true) => "lower",
            (Direction::Minimize, true) | (Direction::Maximize, false) => "higher",
        };
        // A distance: its interval is turned with it.
        let (low, high) = if gain.mean < 0.0 { (-gain.high, -gain.low) } else { (gain.low, gain.high) };
        let relative = baseline
            .filter(|b| b.abs() > 0.0)
            .map(|b| format!(" ({})", percent((gain.mean / b).abs())))
            .unwrap_or_default();
        format!(
            "It is {word} by {}{relative}, with a 95 % interval of {} to {} over {}.",
            self.decimals.score(gain.mean.abs()),
            self.decimals.score(low),
            self.decimals.score(high),
            of(u64::from(gain.pairs), "paired seed", "paired seeds"),
        )
    }

    fn unfinished(&self) -> (Standing, String, Vec<String>) {
        let data = self.data;
        let tried = data.points.len().saturating_sub(1) as u64;
        if data.noise.is_none() {
            let said = "The baseline has not been measured; nothing can be said yet.".into();
            return (Standing::Unknown, "Not finished".into(), vec![said]);
        }
        let mut said = vec![format!(
            "{} so far, {} of them kept and {} failed.",
            of(tried, "candidate was tried", "candidates were tried"),
            data.count(Status::Kept),
            data.count(Status::Failed)
        )];
        let metric = &data.metric.name;
        let baseline = data.points.first().and_then(|p| p.score);
        let best = data.winner().filter(|w| w.index > 0).and_then(|w| w.score);
        said.push(match best {
            Some(best) => format!(
                "On the data of the search, the best {metric} is {}; the baseline's is {}.",
                self.decimals.score(best),
                self.decimals.optional(baseline)
            ),
            None => format!(
                "The baseline's {metric} is {} on the data of the search.",
                self.decimals.optional(baseline)
            ),
        });
        said.push("The final comparison has not been made, so this is no result yet.".into());
        (Standing::Unknown, "Not finished".into(), said)
    }

    fn xz(&self) -> Option<String> {
        let ours = self.data.comparison.as_ref()?.best.mean?;
        let xz = self.data.xz.last?;
        // Both in bits per byte: smaller is better.
        let word = if ours < xz {
            "the best candidate does better"
        } else {
            "the best candidate does not get there"
        };
        Some(format!("For scale, xz -9 reaches {} on the same files; {word}.", self.decimals.score(xz)))
    }

    fn stopped(&self) -> Option<String> {
        let why = match self.data.stopped? {
            StopReason::Fuel => "the fuel budget was used up",
            StopReason::Evals => "its evaluation budget was used up",
            StopReason::Wall => "its time was up; how far such a run gets depends on the machine's speed",
            StopReason::NoProposals => "no proposer had anything left to propose",
        };
        let facts = &self.data.run;
        Some(format!(
            "The search ended after {} of {} generations: {why}.",
            facts.generations, facts.generations_planned
        ))
    }
}
