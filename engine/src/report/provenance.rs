//! Where the good candidates came from: machines alone, people alone, or both
//! together; and whether the population stays diverse.
//!
//! A candidate's hands are those of all its ancestors. The milestones are of
//! kept candidates only, and say how far the loop gets without people:
//! *adequacy* (machines alone improve the baseline), *parity* (as far as
//! people alone), *supremacy* (further than people alone).

use super::figures::Decimals;
use super::page::minus;
use super::{Point, ReportData, Status};
use crate::task::Direction;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Candidates over which diversity is taken.
const WINDOW: usize = 24;
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 48.0;

/// Whose hands a candidate went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hands {
    /// A model, an agent or an operator.
    pub machine: bool,
    /// A person.
    pub person: bool,
}

/// The best kept candidate of each kind, by mean selection score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Milestones {
    /// Of the baseline.
    pub baseline: Option<f64>,
    /// Machines alone.
    pub alone: Option<f64>,
    /// People alone.
    pub people: Option<f64>,
    /// Both.
    pub together: Option<f64>,
    /// Whether people proposed anything.
    pub people_took_part: bool,
}

/// One place on the curves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Position of the last candidate of the window.
    pub index: usize,
    /// Effective number of different parents in it (inverse Simpson index).
    pub parents: f64,
    /// Effective number of founders: ancestors that are children of the baseline.
    pub founders: f64,
    /// Share that people had a hand in.
    pub people: f64,
}

/// The hands of each candidate.
pub fn hands(points: &[Point]) -> Vec<Hands> {
    let mut all: Vec<Hands> = Vec::with_capacity(points.len());
    for point in points {
        let person = point.proposer == "person";
        let mut own = match point.status {
            Status::Baseline => Hands::default(),
            _ => Hands { machine: !person, person },
        };
        // A parent stands before its child; anything else would be damage.
        for parent in point.parents.iter().filter_map(|at| all.get(*at)) {
            own.machine |= parent.machine;
            own.person |= parent.person;
        }
        all.push(own);
    }
    all
}

/// The milestones of a run.
pub fn milestones(points: &[Point], direction: Direction) -> Milestones {
    let mut found = Milestones {
        baseline: points.first().and_then(|p| p.score),
        people_took_part: points.iter().any(|p| p.proposer == "person"),
        ..Milestones::default()
    };
    for (point, hands) in points.iter().zip(hands(points)) {
        let (Status::Kept, Some(score)) = (point.status, point.score) else {
            continue;
        };
        let best = match (hands.machine, hands.person) {
            (true, false) => &mut found.alone,
            (false, true) => &mut found.people,
            (true, true) => &mut found.together,
            (false, false) => continue,
        };
        if best.is_none_or(|so_far| direction.better(score, so_far)) {
            *best = Some(score);
        }
    }
    found
}

/// How many different ones there are, by the inverse of Simpson's index.
fn effective(ones: impl Iterator<Item = usize>) -> f64 {
    let (mut counts, mut n) = (BTreeMap::new(), 0.0);
    for one in ones {
        *counts.entry(one).or_insert(0.0) += 1.0;
        n += 1.0;
    }
    let simpson: f64 = counts.values().map(|c: &f64| (c / n).powi(2)).sum();
    if simpson > 0.0 { 1.0 / simpson } else { 0.0 }
}

/// Diversity and provenance over sliding windows.
pub fn samples(points: &[Point]) -> Vec<Sample> {
    let hands = hands(points);
    let mut founders: Vec<usize> = Vec::with_capacity(points.len());
    for point in points {
        let parent = point.parents.first().copied().unwrap_or(0);
        let own = if parent == 0 { point.index } else { founders.get(parent).copied().unwrap_or(0) };
        founders.push(own);
    }
    let proposed = points.get(1..).unwrap_or_default();
    let step = (proposed.len() / 200).max(1);
    let ends = (WINDOW.min(proposed.len()).max(1)..=proposed.len()).step_by(step);
    ends.map(|end| {
        let window = &proposed[end.saturating_sub(WINDOW)..end];
        let with_people = window.iter().filter(|p| hands[p.index].person).count();
        Sample {
            index: end,
            parents: effective(window.iter().filter_map(|p| p.parents.first().copied())),
            founders: effective(window.iter().map(|p| founders[p.index])),
            people: with_people as f64 / window.len().max(1) as f64,
        }
    })
    .collect()
}

/// The section of the report.
pub fn section(data: &ReportData, decimals: Decimals) -> Markup {
    let direction = data.metric.direction;
    let found = milestones(&data.points, direction);
    let curves = samples(&data.points);
    let reached = |ahead: Option<f64>, of: Option<f64>, ties: bool| match (ahead, of) {
        (Some(a), Some(b)) if direction.better(a, b) || (ties && a == b) => "reached",
        (Some(_), None) if found.people_took_part => "reached: nothing by people alone was kept",
        _ if !found.people_took_part => "no person took part",
        _ => "not reached",
    };
    let furthest = match (found.alone, found.together) {
        (Some(a), Some(b)) => Some(if direction.better(a, b) { a } else { b }),
        (a, b) => a.or(b),
    };
    let rows = [
        (
            "adequacy",
            "machines alone improve the baseline",
            found.alone,
            found.baseline,
            if found.alone.is_some() { "reached" } else { "not reached" },
        ),
        (
            "parity",
            "machines alone get as far as people alone",
            found.alone,
            found.people,
            reached(found.alone, found.people, true),
        ),
        (
            "supremacy",
            "machines, alone or with people, get further than people alone",
            furthest,
            found.people,
            reached(furthest, found.people, false),
        ),
    ];
    html! {
        section aria-labelledby="provenance" {
            h2 id="provenance" { "How far it gets without people" }
            div class="scroll" role="region" aria-labelledby="provenance" tabindex="0" {
                table {
                    thead { tr {
                        th scope="col" { "milestone" } th scope="col" { "meaning" }
                        th scope="col" class="number" { "score" } th scope="col" class="number" { "against" } th scope="col" { "" }
                    } }
                    tbody { @for (name, meaning, score, against, word) in rows { tr {
                        th scope="row" { (name) } td { (meaning) }
                        td class="number" { (minus(&decimals.optional(score))) }
                        td class="number" { (minus(&decimals.optional(against))) } td { (word) }
                    } } }
                }
            }
            p class="aside" { "Scores of kept candidates on the data of the search, by whose hands they and all their ancestors went through." }
            @if curves.len() > 1 {
                h3 { "Diversity" }
                (curve(&curves, "effective number of different parents", &|s| s.parents))
                (curve(&curves, "effective number of founders", &|s| s.founders))
                @if found.people_took_part { (curve(&curves, "share with people among its ancestors", &|s| s.people)) }
                p class="aside" { "Over the latest " (WINDOW) " candidates, from the first " (WINDOW) " to the last; the lower line is zero. A population that lives off one parent and one founder has collapsed." }
            }
        }
    }
}

/// A line that is as wide as its column, under what it shows.
fn curve(samples: &[Sample], what: &str, value: &dyn Fn(&Sample) -> f64) -> Markup {
    let top = samples.iter().map(value).fold(1.0, f64::max);
    let ends = (samples.first().map_or(0, |s| s.index), samples.last().map_or(1, |s| s.index));
    let width = ends.1.saturating_sub(ends.0).max(1) as f64;
    let x = |s: &Sample| WIDTH * s.index.saturating_sub(ends.0) as f64 / width;
    let y = |s: &Sample| HEIGHT - 2.0 - (HEIGHT - 4.0) * value(s) / top;
    let points: Vec<String> = samples.iter().map(|s| format!("{:.1},{:.1}", x(s), y(s))).collect();
    let now = samples.last().map_or(0.0, value);
    let label = format!("{what}: {now:.1} now, {top:.1} at most");
    html! {
        figure class="spark" {
            figcaption { (label) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
                line class="axis" x1="0" x2=(WIDTH) y1=(HEIGHT - 2.0) y2=(HEIGHT - 2.0) {}
                polyline class="best" points=(points.join(" ")) {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(index: usize, proposer: &str, parents: &[usize], status: Status, score: f64) -> Point {
        Point {
            index,
            id: String::new(),
            generation: 1,
            proposer: proposer.into(),
            operator: String::new(),
            note: String::new(),
            parents: parents.to_vec(),
            status,
            reason: String::new(),
            score: Some(score),
            seeds: 3,
            outcome: "finished".into(),
            gain: None,
            incumbent: None,
            best: None,
        }
    }

    #[test]
    fn hands_follow_ancestry_and_milestones_count_only_what_was_kept() {
        let points = [
            point(0, "baseline", &[], Status::Baseline, 1.0),
            point(1, "mutate", &[0], Status::Kept, 0.9),
            point(2, "person", &[0], Status::Kept, 0.8),
            point(3, "mutate", &[2], Status::Kept, 0.6),
            point(4, "model", &[1], Status::Discarded, 0.1),
            point(5, "crossover", &[1, 2], Status::Kept, 0.7),
        ];
        let found = milestones(&points, Direction::Minimize);
        assert_eq!((found.alone, found.people, found.together), (Some(0.9), Some(0.8), Some(0.6)));
        let of = hands(&points);
        assert_eq!(of[4], Hands { machine: true, person: false });
        assert_eq!(of[5], Hands { machine: true, person: true });
    }

    #[test]
    fn a_population_that_lives_off_one_parent_shows_it() {
        let mut points = vec![point(0, "baseline", &[], Status::Baseline, 1.0)];
        for index in 1..=60 {
            let parent = if index <= 30 { index % 5 } else { 7 };
            points.push(point(index, "mutate", &[parent], Status::Discarded, 1.0));
        }
        let curve = samples(&points);
        assert!(curve[0].parents > 4.0, "{:?}", curve[0]);
        let last = curve.last().unwrap();
        assert_eq!((last.parents, last.founders, last.people), (1.0, 1.0, 0.0));
        assert!(samples(&points[..1]).is_empty());
    }
}
