//! The sections below the curve.

use super::figures::{self, Decimals, of, percent, shell_word};
use super::page::{amount, minus};
use super::table::result_word;
use super::{Changes, Point, ReportData};
use crate::diff::{DiffLine, LineKind, cleaned};
use maud::{Markup, html};

/// How the winner came about, step by step.
pub fn lineage(data: &ReportData, decimals: Decimals) -> Markup {
    let steps: Vec<&Point> = data.lineage.iter().filter_map(|at| data.points.get(*at)).collect();
    html! {
        section aria-labelledby="lineage" {
            h2 id="lineage" { "Lineage of the best" }
            @if steps.len() < 2 {
                p { "The baseline is still the best: there are no steps to show." }
            } @else {
                ol class="lineage" {
                    @for step in &steps { (lineage_step(step, decimals)) }
                }
                p class="aside" {
                    "The gain of a step is the paired difference by which it was judged, in the search, against the "
                    "incumbent of its time. Such gains are those of winners, and so flatter a little; the verdict above does not."
                }
            }
        }
    }
}

fn lineage_step(step: &Point, decimals: Decimals) -> Markup {
    let parent = step.parents.first();
    html! {
        li class=(step.status.word()) {
            div class="step" {
                span class="what" {
                    code { (step.id) }
                    " " span class="quiet" {
                        "#" (step.index) ", generation " (step.generation)
                        @if step.index > 0 { " · " (cleaned(&step.proposer)) " " (cleaned(&step.operator)) }
                    }
                }
                span class="figures" {
                    @if let Some(gain) = &step.gain { strong { (minus(&decimals.gain(gain))) } }
                    span class="quiet" { " " (minus(&decimals.optional(step.score))) }
                }
            }
            @if step.index == 0 {
                p { "The program that the task came with." }
            } @else {
                @if !step.note.is_empty() { p { bdi { (cleaned(&step.note)) } } }
                p class="quiet" {
                    (cleaned(result_word(step))) ": " (cleaned(&step.reason))
                    @if let Some(incumbent) = step.incumbent.filter(|i| Some(i) != parent) { ", compared with #" (incumbent) }
                    @if let Some(second) = step.parents.get(1) { ", crossed with #" (second) }
                }
            }
        }
    }
}

/// What distinguishes the best from the baseline.
pub fn changes(data: &ReportData) -> Markup {
    let Changes { source, knobs, missing } = &data.changes;
    let added = source.iter().filter(|l| l.kind == LineKind::Added).count();
    let removed = source.iter().filter(|l| l.kind == LineKind::Removed).count();
    html! {
        section aria-labelledby="changes" {
            h2 id="changes" { "What the best changed" }
            @if let Some(why) = missing { p class="warning" { "A source could not be read: " (cleaned(why)) } }
            @if source.is_empty() && knobs.is_empty() && missing.is_none() { p { "Nothing: it is the baseline." } }
            @if !knobs.is_empty() {
                table class="knobs" {
                    caption { "Knobs" }
                    thead { tr { th scope="col" { "knob" } th scope="col" class="number" { "baseline" } th scope="col" class="number" { "best" } } }
                    tbody {
                        @for knob in knobs {
                            tr {
                                th scope="row" { code { (cleaned(&knob.name)) } }
                                td class="number" { (cleaned(&knob.old)) }
                                td class="number changed" { (cleaned(&knob.new)) }
                            }
                        }
                    }
                }
            }
            @if !source.is_empty() {
                p class="caption" { "Source, " (of(added as u64, "line", "lines")) " added and " (removed) " removed" }
                div class="scroll diff" role="region" aria-label="Difference of the sources" tabindex="0" {
                    pre { @for line in source { (diff_line(line)) } }
                }
            } @else if !knobs.is_empty() {
                p class="aside" { "The source is the baseline's." }
            }
        }
    }
}

fn diff_line(line: &DiffLine) -> Markup {
    let (class, sign) = match line.kind {
        LineKind::Hunk => ("hunk", ""),
        LineKind::Context => ("context", " "),
        LineKind::Removed => ("removed", "-"),
        LineKind::Added => ("added", "+"),
    };
    html! { span class=(class) { (sign) (cleaned(line.text.trim_end_matches('\r'))) "\n" } }
}

/// Who proposed, and what came of it.
pub fn proposers(data: &ReportData, decimals: Decimals) -> Markup {
    html! {
        section aria-labelledby="proposers" {
            h2 id="proposers" { "Who proposed" }
            @if data.proposers.is_empty() { p { "Nothing was proposed yet." } } @else {
                div class="scroll" role="region" aria-labelledby="proposers" tabindex="0" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "proposer" }
                                @for name in ["proposals", "failed", "kept", "gain", "share"] { th scope="col" class="number" { (name) } }
                            }
                        }
                        tbody {
                            @for who in &data.proposers {
                                tr {
                                    th scope="row" { (cleaned(&who.name)) }
                                    td class="number" { (amount(who.proposals)) }
                                    td class="number" { (amount(who.failed)) }
                                    td class="number" { (amount(who.kept)) }
                                    td class="number" { @if who.kept > 0 { (minus(&decimals.signed(who.gain))) } }
                                    td class="number" { @if let Some(share) = who.share { (percent(share)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How evaluations ended.
pub fn outcomes(data: &ReportData) -> Markup {
    let rows = data.outcomes.iter().map(|o| Bar {
        label: o.code.clone(),
        value: o.evaluations,
        text: amount(o.evaluations),
        class: if o.code == "finished" { "bar" } else { "bar bad" },
    });
    bars("outcomes", "How evaluations ended", "evaluations", rows.collect(), "No evaluation has ended yet.")
}

/// Where the time went.
pub fn time(data: &ReportData) -> Markup {
    let rows = data.spent.phases.iter().map(|(phase, us)| Bar {
        label: (*phase).to_owned(),
        value: *us,
        text: figures::duration(*us),
        class: "bar",
    });
    bars("time", "Where time went", "all workers", rows.collect(), "No time was recorded yet.")
}

/// Which operations the device fuel went to.
pub fn device_fuel(data: &ReportData) -> Markup {
    let whole = data.spent.device_fuel;
    if whole == 0 && data.spent.fuel == 0 {
        return html! {};
    }
    let rows: Vec<Bar> = data
        .spent
        .device_profile
        .iter()
        .map(|(operation, fuel)| Bar {
            label: operation.clone(),
            value: *fuel,
            text: amount(*fuel),
            class: "bar",
        })
        .collect();
    html! {
        (bars("fuel", "Where fuel went", "device fuel", rows, "This task uses no device."))
    }
}

struct Bar {
    label: String,
    value: u64,
    text: String,
    class: &'static str,
}

/// A table whose rows carry bars, the longest being full.
fn bars(id: &str, heading: &str, unit: &str, rows: Vec<Bar>, none: &str) -> Markup {
    let longest = rows.iter().map(|r| r.value).max().unwrap_or(0).max(1) as f64;
    let whole: f64 = rows.iter().map(|r| r.value as f64).sum();
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (heading) }
            @if rows.is_empty() { p { (none) } } @else {
                table class="bars" {
                    caption { (unit) }
                    tbody {
                        @for row in &rows {
                            tr {
                                th scope="row" { (cleaned(&row.label)) }
                                td class="track" aria-hidden="true" {
                                    div class=(row.class) style={ "width:" (format!("{:.2}", row.value as f64 / longest * 100.0)) "%" } {}
                                }
                                td class="number" { (row.text) }
                                td class="number quiet" { (percent(row.value as f64 / whole.max(1.0))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How to check and repeat what is said here.
pub fn record(data: &ReportData, decimals: Decimals) -> Markup {
    let run = &data.run;
    let folder = shell_word(&run.folder);
    let spent = &data.spent;
    let finished = data.comparison.is_some();
    html! {
        section aria-labelledby="record" {
            h2 id="record" { "The record" }
            @if let Some(broken) = &data.ledger.broken {
                p class="warning" { "The ledger is broken at " (cleaned(broken)) "." }
            }
            dl class="facts" {
                (fact("evaluations", html! {
                    (amount(spent.selection_evaluations)) " in the search, "
                    (amount(spent.final_evaluations)) " in the final comparison, "
                    (amount(spent.failed_evaluations)) " of them not finished"
                }))
                (fact("generations", html! { (run.generations) " of " (run.generations_planned) }))
                @if let Some(noise) = &data.noise {
                    (fact("noise floor", html! {
                        "standard deviation " (decimals.score(noise.sd)) " over "
                        (of(noise.seeds.len() as u64, "seed", "seeds")) " of the baseline"
                    }))
                }
                @if spent.fuel > 0 { (fact("guest fuel", html! { (amount(spent.fuel)) " instructions" })) }
                @if spent.device_fuel > 0 { (fact("device fuel", html! { (amount(spent.device_fuel)) })) }
                @if spent.train_us > 0 && spent.train_kernel_us > 0 {
                    (fact("training outside kernels", html! {
                        (percent(spent.train_us.saturating_sub(spent.train_kernel_us) as f64 / spent.train_us as f64)) " of its time"
                    }))
                }
                @if let Some((first, last)) = run.recorded_unix_ms {
                    (fact("recorded", html! { (figures::utc(first)) " to " (figures::utc(last)) }))
                }
                (fact("engine", html! { (cleaned(&run.engine)) }))
                (fact("made with", html! { (cleaned(&run.identity)) }))
                (fact("ledger", html! {
                    (amount(data.ledger.events)) " events, head "
                    @if data.ledger.head.is_empty() { "none" } @else { code class="hash" { (data.ledger.head) } }
                }))
            }
            p class="caption" { "Check it, or go on" }
            pre class="commands" {
                "terrarium verify " (folder) "        # repeats the best, bit for bit\n"
                "terrarium verify --all " (folder) "  # repeats everything\n"
                @if !finished { "terrarium resume " (folder) "\n" }
                "terrarium report " (folder) "\n"
            }
        }
    }
}

fn fact(name: &str, value: Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}
