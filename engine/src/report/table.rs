//! The table of all candidates.

use super::figures::Decimals;
use super::page::minus;
use super::{Point, ReportData, Status};
use crate::diff::cleaned;
use maud::{Markup, html};

/// A longer table is folded up until it is asked for.
const OPEN_UP_TO: usize = 60;
/// So many are listed, the best.
const MOST: usize = 1000;

/// The baseline, all that were kept, and the best of the others, in order of
/// proposal.
fn listed(data: &ReportData) -> Vec<&Point> {
    let rank = |point: &Point| match point.status {
        Status::Baseline | Status::Kept => f64::NEG_INFINITY,
        _ => point.score.map_or(f64::INFINITY, |score| data.metric.direction.gain(0.0, score)),
    };
    let mut points: Vec<&Point> = data.points.iter().collect();
    points.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    points.truncate(MOST);
    points.sort_by_key(|point| point.index);
    points
}

pub fn candidates(data: &ReportData, decimals: Decimals) -> Markup {
    let listed = listed(data);
    let metric = cleaned(&data.metric.name);
    html! {
        section aria-labelledby="candidates" {
            h2 id="candidates" { "All candidates" }
            p class="aside" {
                (data.points.len()) " in order of proposal: "
                (data.count(Status::Kept)) " kept, "
                (data.count(Status::Discarded)) " discarded, "
                (data.count(Status::Failed)) " failed"
                @if data.count(Status::Pending) > 0 { ", " (data.count(Status::Pending)) " not decided yet" }
                @if listed.len() < data.points.len() {
                    ". Listed are those that were kept and the best, " (listed.len()) " in all; "
                    code { "terrarium export" } " writes all of them"
                }
                ". Gains are paired differences to the incumbent of the time, positive is better, with half their 95 % interval."
            }
            details open[data.points.len() <= OPEN_UP_TO] {
                summary { "Table" }
                div class="scroll" role="region" aria-labelledby="candidates" tabindex="0" {
                    table class="candidates" {
                        thead {
                            tr {
                                th scope="col" class="number" { "#" }
                                th scope="col" { "candidate" }
                                th scope="col" { "proposer" }
                                th scope="col" { "change" }
                                th scope="col" class="number" { (metric) }
                                th scope="col" class="number" { "seeds" }
                                th scope="col" class="number" { "gain" }
                                th scope="col" { "result" }
                            }
                        }
                        tbody { @for point in &listed { (row(point, decimals)) } }
                    }
                }
            }
        }
    }
}

fn row(point: &Point, decimals: Decimals) -> Markup {
    let parents: Vec<String> = point.parents.iter().map(|parent| format!("#{parent}")).collect();
    let word = result_word(point);
    // That of a failure begins with the word itself.
    let reason = match point.reason.strip_prefix(word) {
        Some(rest) if point.status == Status::Failed => rest.trim_start_matches(": "),
        _ => &point.reason,
    };
    html! {
        tr class=(point.status.word()) {
            td class="number" { (point.index) }
            th scope="row" {
                code { (point.id) }
                @if !parents.is_empty() { span class="under" { "from " (parents.join(", ")) } }
            }
            td { (cleaned(&point.proposer)) @if !point.operator.is_empty() { span class="under" { (cleaned(&point.operator)) } } }
            td class="note" { bdi { (cleaned(&point.note)) } }
            td class="number" { (minus(&decimals.optional(point.score))) }
            td class="number" { (point.seeds) }
            td class="number" { @if let Some(gain) = &point.gain { (minus(&decimals.gain(gain))) } }
            td class="result" {
                span class="word" { (cleaned(word)) }
                @if !reason.is_empty() { span class="under" { bdi { (cleaned(reason)) } } }
            }
        }
    }
}

/// The status; for failures, how they failed.
pub fn result_word(point: &Point) -> &str {
    match point.status {
        Status::Failed if !point.outcome.is_empty() => &point.outcome,
        status => status.word(),
    }
}
