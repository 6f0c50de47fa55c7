//! The best-so-far curve as inline SVG.
//!
//! Every coordinate comes from [`Scale`], which maps finite numbers to finite
//! numbers, so that no `NaN` can reach the page. Candidates without a score
//! stand in a strip of their own at the worse side; those far off are drawn
//! at the edge, as triangles, so that they do not squeeze the rest flat.

use super::figures::Decimals;
use super::{Point, ReportData, Status};
use crate::diff::cleaned;
use crate::task::Direction;
use maud::{Markup, html};
use std::collections::HashSet;

/// The size of a drawing, in CSS pixels.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub width: f64,
    pub height: f64,
    /// Names it, so that several can stand on one page.
    pub name: &'static str,
}

/// For a page of full width.
pub const WIDE: Frame = Frame { width: 1040.0, height: 430.0, name: "wide" };
/// For a telephone.
pub const NARROW: Frame = Frame { width: 360.0, height: 330.0, name: "narrow" };

const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Height of the strip for candidates without a score.
const STRIP: f64 = 30.0;
/// Candidates above which marks share their place.
const MOST_MARKS: usize = 2000;
/// Width and height of a place then.
const CELL: f64 = 6.0;

/// A linear map from an interval that is not empty.
#[derive(Clone, Copy, Debug)]
struct Scale {
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let share = (value - self.from.0) / (self.from.1 - self.from.0);
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 };
        round(self.to.0 + share * (self.to.1 - self.to.0))
    }
}

fn round(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// What the vertical axis spans: everything near the best, and the baseline
/// with its noise. Low and high, low < high.
fn span(data: &ReportData) -> Option<(f64, f64)> {
    let scores = || data.points.iter().filter_map(|p| p.score).filter(|s| s.is_finite() && s.abs() < 1e100);
    let direction = data.metric.direction;
    let best = scores().reduce(|a, b| if direction.better(b, a) { b } else { a })?;
    let baseline = data.points.first().and_then(|p| p.score).filter(|s| s.is_finite()).unwrap_or(best);
    let noise = noise(data);
    let behind = |score: f64| direction.gain(best, score);
    let core = behind(baseline) + 2.0 * noise;
    let mut distances: Vec<f64> = scores().map(behind).collect();
    distances.sort_by(f64::total_cmp);
    let farthest = distances.last().copied().unwrap_or(0.0);
    let typical = distances.get(distances.len() * 3 / 4).copied().unwrap_or(0.0);
    let near = (core * 1.6).max(typical.min(core * 4.0));
    // With nothing but equal scores there is no natural span.
    let depth = if farthest <= near * 1.25 { farthest.max(core) } else { near };
    let depth = if depth > 0.0 { depth } else { best.abs().max(1e-6) * 0.01 };
    let (margin_best, margin_worst) = ((depth * 0.10).max(noise), depth * 0.06);
    Some(match direction {
        Direction::Minimize => (best - margin_best, best + depth + margin_worst),
        Direction::Maximize => (best - depth - margin_worst, best + margin_best),
    })
}

fn noise(data: &ReportData) -> f64 {
    data.noise.as_ref().map(|n| n.sd).filter(|sd| sd.is_finite()).unwrap_or(0.0)
}

/// The best score after each candidate. The siblings of one that was kept
/// were compared with its predecessor, but the curve does not go back.
pub(super) fn bests(data: &ReportData) -> Vec<(usize, f64)> {
    let mut kept: Option<&Point> = None;
    let mut bests = Vec::with_capacity(data.points.len());
    for point in &data.points {
        if point.status == Status::Kept {
            kept = Some(point);
        }
        let holds = kept.filter(|kept| kept.generation == point.generation).unwrap_or(point);
        bests.extend(holds.best.filter(|best| best.is_finite()).map(|best| (point.index, best)));
    }
    bests
}

/// Round numbers between `low` and `high`: steps of 1, 2 or 5 times a power
/// of ten, about `wanted` of them.
fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let raw = (high - low) / wanted.max(1) as f64;
    if !raw.is_finite() || raw <= 0.0 {
        return Vec::new();
    }
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= raw).unwrap_or(raw);
    let first = (low / step).ceil();
    let tick = |i: u32| (first + f64::from(i)) * step;
    (0..64).map(tick).take_while(|t| *t <= high + step * 1e-9).collect()
}

/// Decimals that tell neighbouring ticks apart.
fn tick_label(value: f64, ticks: &[f64]) -> String {
    let step = match ticks {
        [a, b, ..] => (b - a).abs(),
        _ => 1.0,
    };
    let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 12.0) as usize;
    format!("{value:.decimals$}").replace('-', "−")
}

/// The drawing; `None` while no candidate has a score.
pub fn curve(data: &ReportData, frame: Frame, decimals: Decimals) -> Option<Markup> {
    let (low, high) = span(data)?;
    let failed = data.points.iter().any(|p| p.score.is_none() && p.status != Status::Pending);
    let strip = if failed { STRIP } else { 0.0 };
    // The strip is at the worse side.
    let worse_is_up = data.metric.direction == Direction::Minimize;
    let (top, bottom) =
        if worse_is_up { (TOP + strip, frame.height - BOTTOM) } else { (TOP, frame.height - BOTTOM - strip) };
    let strip_y = if worse_is_up { TOP + strip / 2.0 - 4.0 } else { bottom + strip / 2.0 + 4.0 };
    let last = data.points.len().saturating_sub(1).max(1) as f64;
    let x = Scale { from: (0.0, last), to: (LEFT + 10.0, frame.width - RIGHT - 10.0) };
    let y = Scale { from: (low, high), to: (bottom, top) };
    let drawing = Drawing { data, frame, decimals, x, y, low, high, top, bottom, strip_y };
    Some(drawing.markup(failed))
}

struct Drawing<'a> {
    data: &'a ReportData,
    frame: Frame,
    decimals: Decimals,
    x: Scale,
    y: Scale,
    low: f64,
    high: f64,
    top: f64,
    bottom: f64,
    strip_y: f64,
}

impl Drawing<'_> {
    fn markup(&self, failed: bool) -> Markup {
        let Frame { width, height, name } = self.frame;
        let title = format!("curve-title-{name}");
        let metric = cleaned(&self.data.metric.name);
        html! {
            svg class={ "curve " (name) } viewBox={ "0 0 " (width) " " (height) } role="img" aria-labelledby=(title) {
                title id=(title) { (metric) " of every candidate, and of the best so far" }
                (self.axes(&metric, failed))
                (self.baseline())
                (self.yardstick())
                @for point in self.in_order_of_painting() { (self.mark(point)) }
                (self.best_line())
                @for point in self.data.points.iter().filter(|p| matches!(p.status, Status::Kept | Status::Baseline)) {
                    (self.mark(point))
                }
                (self.last_value())
            }
        }
    }

    fn right(&self) -> f64 {
        self.frame.width - RIGHT
    }

    fn axes(&self, metric: &str, failed: bool) -> Markup {
        let wide = self.frame.width > 600.0;
        let rows = ticks(self.low, self.high, if wide { 7 } else { 5 });
        let most = self.data.points.len().saturating_sub(1);
        let columns: Vec<f64> = ticks(0.0, most as f64, if wide { 12 } else { 5 })
            .into_iter()
            .filter(|t| t.fract() == 0.0)
            .collect();
        let better = match self.data.metric.direction {
            Direction::Minimize => "lower is better",
            Direction::Maximize => "higher is better",
        };
        let floor = self.frame.height - BOTTOM;
        html! {
            @for tick in &rows {
                line class="grid" x1=(LEFT) x2=(self.right()) y1=(self.y.at(*tick)) y2=(self.y.at(*tick)) {}
                text class="tick" x=(LEFT - 8.0) y=(self.y.at(*tick) + 4.0) text-anchor="end" { (tick_label(*tick, &rows)) }
            }
            line class="axis" x1=(LEFT) x2=(self.right()) y1=(floor) y2=(floor) {}
            @for tick in &columns {
                line class="axis" x1=(self.x.at(*tick)) x2=(self.x.at(*tick)) y1=(floor) y2=(floor + 4.0) {}
                text class="tick" x=(self.x.at(*tick)) y=(floor + 18.0) text-anchor="middle" { (format!("{tick:.0}")) }
            }
            text class="label" x=(self.right()) y=(self.frame.height - 6.0) text-anchor="end" { "candidate, in order of proposal" }
            text class="label" x="0" y=(self.frame.height - 6.0) { (metric) @if wide { ", " (better) } }
            @if failed {
                text class="tick" x=(LEFT - 8.0) y=(round(self.strip_y + 4.0)) text-anchor="end" { "failed" }
            }
        }
    }

    /// The band of two standard deviations around the baseline.
    fn baseline(&self) -> Markup {
        let Some(mean) = self.data.noise.as_ref().and_then(|n| n.mean).filter(|m| m.is_finite()) else {
            return html! {};
        };
        let reach = 2.0 * noise(self.data);
        let (upper, lower) = (self.y.at(mean + reach), self.y.at(mean - reach));
        html! {
            @if lower > upper {
                rect class="band" x=(LEFT) width=(self.right() - LEFT) y=(upper) height=(round(lower - upper)) {
                    title { "baseline " (self.decimals.score(mean)) ", two standard deviations of its noise either way" }
                }
            }
            line class="baseline" x1=(LEFT) x2=(self.right()) y1=(self.y.at(mean)) y2=(self.y.at(mean)) {}
        }
    }

    fn yardstick(&self) -> Markup {
        let Some(xz) = self.data.xz.selection.filter(|xz| *xz > self.low && *xz < self.high) else {
            return html! {};
        };
        html! {
            line class="yardstick" x1=(LEFT) x2=(self.right()) y1=(self.y.at(xz)) y2=(self.y.at(xz)) {}
            text class="remark" x=(self.right()) y=(round(self.y.at(xz) - 5.0)) text-anchor="end" { "xz -9: " (self.decimals.score(xz)) }
        }
    }

    /// A step at each candidate after which the incumbent's score differs.
    fn best_line(&self) -> Markup {
        let mut path = String::new();
        let mut before = None;
        for (index, best) in bests(self.data) {
            let (x, y) = (self.x.at(index as f64), self.y.at(best));
            match before {
                None => path.push_str(&format!("M{x} {y}")),
                Some(y_before) if y_before != y => path.push_str(&format!("H{x}V{y}")),
                Some(_) => {}
            }
            before = Some(y);
        }
        if before.is_some() {
            path.push_str(&format!("H{}", self.x.at(self.data.points.len().saturating_sub(1) as f64)));
        }
        html! { @if !path.is_empty() { path class="best" d=(path) {} } }
    }

    /// Those that were not kept. Where they are many, one for each place.
    fn in_order_of_painting(&self) -> impl Iterator<Item = &Point> {
        let many = self.data.points.len() > MOST_MARKS;
        let mut taken = HashSet::new();
        let cell = |at: f64| (at / CELL) as u32;
        let others = self.data.points.iter().filter(|p| !matches!(p.status, Status::Kept | Status::Baseline));
        others.filter(move |point| {
            let y = point.score.filter(|s| s.is_finite()).map_or(self.strip_y, |score| self.y.at(score));
            !many || taken.insert((cell(self.x.at(point.index as f64)), cell(y)))
        })
    }

    fn mark(&self, point: &Point) -> Markup {
        let x = self.x.at(point.index as f64);
        let Some(score) = point.score.filter(|s| s.is_finite()) else {
            if point.status == Status::Pending {
                return html! {};
            }
            let y = round(self.strip_y);
            return html! {
                path class="failed" d={ "M" (round(x - 3.5)) " " (round(y - 3.5)) "l7 7m0-7l-7 7" } { title { (self.caption(point)) } }
            };
        };
        let y = self.y.at(score);
        if score < self.low || score > self.high {
            // Points to where it would be.
            let tip = if score > self.high { -7.0 } else { 7.0 };
            let shape = format!("M{} {}h8l-4 {}z", round(x - 4.0), round(y - tip / 2.0), tip);
            return html! { path class="far" d=(shape) { title { (self.caption(point)) " (off the scale)" } } };
        }
        match point.status {
            Status::Baseline => html! {
                rect class="start" x=(round(x - 5.0)) y=(round(y - 5.0)) width="10" height="10" { title { (self.caption(point)) } }
            },
            Status::Kept => {
                html! { circle class="kept" cx=(x) cy=(y) r="5.5" { title { (self.caption(point)) } } }
            }
            // Something that failed on one seed only has no mean, so what is
            // left finished.
            Status::Discarded | Status::Failed | Status::Pending => {
                html! { circle class="discarded" cx=(x) cy=(y) r="3.2" { title { (self.caption(point)) } } }
            }
        }
    }

    /// The best score, written where the curve ends.
    fn last_value(&self) -> Markup {
        let Some((_, best)) = bests(self.data).pop() else {
            return html! {};
        };
        if self.data.points.len() < 2 {
            return html! {};
        }
        let below = self.data.metric.direction == Direction::Minimize;
        let y = self.y.at(best) + if below { 17.0 } else { -9.0 };
        // Not into the axis, where the margin is thin.
        let y = y.clamp(self.top + 10.0, self.bottom - 3.0);
        html! {
            text class="value" x=(self.right() - 8.0) y=(round(y)) text-anchor="end" { (self.decimals.score(best)) }
        }
    }

    fn caption(&self, point: &Point) -> String {
        let mut text = format!("#{} {}: {}", point.index, point.id, point.status.word());
        if let Some(score) = point.score {
            text.push_str(&format!(", {} {}", self.data.metric.name, self.decimals.score(score)));
        } else if !point.outcome.is_empty() {
            text.push_str(&format!(", {}", point.outcome));
        }
        if point.status != Status::Baseline {
            text.push_str(&format!("\n{} {}", point.proposer, point.operator));
        }
        if !point.note.is_empty() {
            text.push_str(&format!("\n{}", point.note));
        }
        // Line feeds are ours; everything else is made visible.
        text.lines().map(cleaned).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let fine = ticks(2.301, 2.347, 5);
        let labels: Vec<String> = fine.iter().map(|t| tick_label(*t, &fine)).collect();
        assert_eq!(labels, ["2.31", "2.32", "2.33", "2.34"]);
        assert_eq!(ticks(1.0, 1.0, 5), [] as [f64; 0]);
        assert_eq!(ticks(f64::NAN, 1.0, 5), [] as [f64; 0]);
        assert!(ticks(-1e300, 1e300, 7).len() <= 64);
    }

    #[test]
    fn a_scale_never_leaves_the_frame() {
        let scale = Scale { from: (0.0, 1.0), to: (10.0, 20.0) };
        assert_eq!(
            [-5.0, 0.5, 9.0, f64::NAN, f64::INFINITY].map(|v| scale.at(v)),
            [10.0, 15.0, 20.0, 15.0, 15.0]
        );
        let empty = Scale { from: (1.0, 1.0), to: (10.0, 20.0) };
        assert!(empty.at(1.0).is_finite());
    }
}
