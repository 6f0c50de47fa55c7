//! The page: its head, its order, and the verdict at its top.

use super::figures::{self, Decimals};
use super::verdict::{Standing, Verdict, spread};
use super::{ReportData, plot, sections, table};
use crate::diff::cleaned;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Nothing is loaded, and nothing runs: only the page's own style counts.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The report as one self-contained HTML document.
pub fn page(data: &ReportData) -> String {
    let decimals = Decimals::of(data);
    let verdict = Verdict::of(data);
    let task = cleaned(&data.run.task);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (task) ": " (verdict.headline) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                main {
                    (masthead(data, &verdict, decimals))
                    (curve(data, decimals))
                    (sections::lineage(data, decimals))
                    (sections::changes(data))
                    div class="columns" {
                        (sections::proposers(data, decimals))
                        (super::provenance::section(data, decimals))
                        (sections::outcomes(data))
                        (sections::time(data))
                        (sections::device_fuel(data))
                    }
                    (table::candidates(data, decimals))
                    (sections::record(data, decimals))
                }
            }
        }
    };
    markup.into_string()
}

fn masthead(data: &ReportData, verdict: &Verdict, decimals: Decimals) -> Markup {
    let class = match verdict.standing {
        Standing::Better => "good",
        Standing::Worse => "bad",
        Standing::Undecided | Standing::Unchanged | Standing::Unknown => "plain",
    };
    html! {
        header {
            p class="kicker" { (cleaned(&data.run.task)) " · seed " (data.run.seed) " · " (cleaned(&data.run.device)) }
            h1 class=(class) { (verdict.headline) }
            p class="task" { (cleaned(&data.run.title)) "." }
            (tiles(data, decimals))
            p class="lead" { (cleaned(&unbroken(&verdict.paragraph()))) }
        }
    }
}

/// The few numbers that matter.
fn tiles(data: &ReportData, decimals: Decimals) -> Markup {
    let metric = cleaned(&data.metric.name);
    let Some(comparison) = &data.comparison else {
        return html! {};
    };
    let changed = comparison.best.candidate != comparison.baseline.candidate;
    let tile = |name: &str, value: String, small: String| {
        html! {
            div class="tile" {
                dt { (name) }
                dd { span class="figure" { (minus(&value)) } @if !small.is_empty() { span class="under" { (minus(&small)) } } }
            }
        }
    };
    let scores = |summary| match spread(summary) {
        None => ("–".to_owned(), "no evaluation finished".to_owned()),
        Some((mean, half)) => {
            let half = half.map_or(String::new(), |half| format!("± {}", decimals.score(half)));
            (decimals.score(mean), half)
        }
    };
    let (baseline, baseline_under) = scores(&comparison.baseline);
    let (best, best_under) = scores(&comparison.best);
    html! {
        dl class="tiles" {
            @if changed {
                (tile(&format!("best {metric}"), best, best_under))
            }
            (tile(&format!("baseline {metric}"), baseline, baseline_under))
            @if let Some(gain) = &comparison.gain {
                (tile("gain", decimals.signed(gain.mean), format!("{} to {}", decimals.signed(gain.low), decimals.signed(gain.high))))
            }
            @if let Some(xz) = data.xz.last {
                (tile("xz -9, same files", decimals.score(xz), "bits per byte".into()))
            }
        }
    }
}

fn curve(data: &ReportData, decimals: Decimals) -> Markup {
    let drawings = [plot::WIDE, plot::NARROW].map(|frame| plot::curve(data, frame, decimals));
    html! {
        section aria-labelledby="curve" {
            h2 id="curve" { "Best so far" }
            @if let [Some(wide), Some(narrow)] = drawings {
                figure {
                    (wide)
                    (narrow)
                    figcaption {
                        (key("start", "baseline"))
                        (key("kept", "kept"))
                        (key("discarded", "discarded"))
                        (key("far", "off the scale"))
                        @if data.points.iter().any(|p| p.score.is_none()) { (key("failed", "failed")) }
                        (key("line", "best so far"))
                        @if data.noise.is_some() { (key("noise", "baseline ± 2 sd of its noise")) }
                    }
                }
                p class="aside" {
                    "Scores on the data of the search, each the mean over the seeds that a candidate was given: "
                    "few for those that lost early. Decisions rest on paired differences, not on these heights."
                }
            } @else {
                p { "No candidate has a score yet." }
            }
        }
    }
}

/// An entry of the key, with the mark as it is drawn.
fn key(mark: &str, meaning: &str) -> Markup {
    html! {
        span class="key" {
            svg viewBox="0 0 20 14" width="20" height="14" aria-hidden="true" {
                @match mark {
                    "start" => rect class="start" x="5" y="2" width="10" height="10" {},
                    "kept" => circle class="kept" cx="10" cy="7" r="5" {},
                    "discarded" => circle class="discarded" cx="10" cy="7" r="3.2" {},
                    "far" => path class="far" d="M6 10.5h8l-4 -7z" {},
                    "failed" => path class="failed" d="M6.5 3.5l7 7m0-7l-7 7" {},
                    "line" => path class="best" d="M1 4H10V10H19" {},
                    _ => rect class="band" x="0" y="1" width="20" height="12" {},
                }
            }
            (meaning)
        }
    }
}

/// Numbers on the page have a true minus sign.
pub(super) fn minus(text: &str) -> String {
    text.replace('-', "−")
}

/// What must not be torn apart at the end of a line.
fn unbroken(text: &str) -> String {
    text.replace("xz -9", "xz\u{a0}-9").replace(" %", "\u{a0}%")
}

/// An amount of evaluations, candidates, and the like.
pub(super) fn amount(value: u64) -> String {
    figures::count(value)
}
