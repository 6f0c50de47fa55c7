//! The result of a run as text for a terminal, or for a file.

use super::figures::{Decimals, count, of};
use super::table::result_word;
use super::verdict::{Standing, Verdict};
use super::{Point, ReportData, Status};
use crate::diff::{self, LineKind, cleaned};
use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Row, Table};
use std::collections::BTreeMap;

/// How many candidates that were not kept are shown: the best ones.
const RUNNERS_UP: usize = 6;
/// Longest difference of the sources that is shown, in lines.
const MOST_DIFF_LINES: usize = 80;
/// Longest line of a source that is shown, in characters.
const MOST_DIFF_COLUMNS: usize = 300;
/// Narrowest and widest text.
const WIDTHS: (u16, u16) = (40, 140);
/// Fewest characters of a note that are worth a column.
const LEAST_NOTE: usize = 16;

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: u16,
    /// Whether colours are wanted.
    pub colour: bool,
}

impl Style {
    /// For the standard output of this process: its width, and colours only
    /// on a terminal that has them and where `NO_COLOR` is not set.
    pub fn of_stdout() -> Self {
        use std::io::IsTerminal;
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let stdout = std::io::stdout();
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        let columns = set("COLUMNS").and_then(|text| text.to_str()?.parse().ok());
        let seen = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col).filter(|w| *w > 0);
        Self {
            width: columns.or_else(seen).unwrap_or(100),
            colour: stdout.is_terminal() && !dumb && set("NO_COLOR").is_none(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What was tried and kept, what the best changed, and the verdict. Ends
/// with a line feed.
pub fn render(data: &ReportData, style: Style) -> String {
    let style = Style { width: style.width.clamp(WIDTHS.0, WIDTHS.1), ..style };
    let decimals = Decimals::of(data);
    let mut text = String::new();
    let mut part = |body: String| {
        if !body.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&body);
        }
    };
    part(candidates(data, decimals, style));
    part(knobs(data, style));
    part(source(data, style));
    part(verdict(data, style));
    text
}

fn candidates(data: &ReportData, decimals: Decimals, style: Style) -> String {
    if data.points.is_empty() {
        return "No candidates yet.\n".into();
    }
    let shown = shown(data);
    let mut table = table(style);
    // Rules above and below, and one under the header.
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.style_mut().row_separator = LineStyle::none();
    table.style_mut().header_separator = LineStyle::none().fill('─').junction('─');
    let room = room_for_notes(data, &shown, decimals, style);
    let wide = room >= LEAST_NOTE;
    let metric = cleaned(&data.metric.name);
    let mut header = vec!["#".to_owned(), "candidate".into(), "proposer".into()];
    if wide {
        header.push("change".into());
    }
    header.extend([metric, "gain (95 %)".into(), "result".into()]);
    table.set_header(header);
    for point in &shown {
        table.add_row(row(data, point, decimals, room));
    }
    let numbers = if wide { [0, 4, 5] } else { [0, 3, 4] };
    for at in numbers {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text.push_str(&wrapped(&rest(data, shown.len()), style.width));
    text
}

/// Nothing but columns, as wide as is asked for.
fn table(style: Style) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(style.width);
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// The baseline, all that were kept, and the best of the others, in order of
/// proposal.
fn shown(data: &ReportData) -> Vec<&Point> {
    let mut others: Vec<(&Point, f64)> = data
        .points
        .iter()
        .filter(|p| matches!(p.status, Status::Discarded | Status::Pending))
        .filter_map(|p| Some((p, p.gain.as_ref().map(|g| g.mean).or(rough_gain(data, p))?)))
        .collect();
    // Stable: the earlier of two equals comes first.
    others.sort_by(|a, b| b.1.total_cmp(&a.1));
    let best = others.into_iter().take(RUNNERS_UP).map(|(p, _)| p);
    let kept = data.points.iter().filter(|p| matches!(p.status, Status::Baseline | Status::Kept));
    let mut shown: Vec<&Point> = kept.chain(best).collect();
    shown.sort_by_key(|p| p.index);
    shown
}

/// Where there are too few pairs for a gain: against the incumbent's mean.
fn rough_gain(data: &ReportData, point: &Point) -> Option<f64> {
    let gain = data.metric.direction.gain(point.score?, point.best?);
    gain.is_finite().then_some(gain)
}

/// What is left of the width for what each candidate changed, so that a row
/// stays one line.
fn room_for_notes(data: &ReportData, shown: &[&Point], decimals: Decimals, style: Style) -> usize {
    const PADDING: usize = 2;
    let header = ["#", "candidate", "proposer", &data.metric.name, "gain (95 %)", "result"];
    let mut widths = header.map(|text| cleaned(text).chars().count());
    for point in shown {
        for (width, text) in widths.iter_mut().zip(texts(data, point, decimals)) {
            *width = text.chars().count().max(*width);
        }
    }
    let others: usize = widths.iter().map(|width| width + PADDING).sum();
    usize::from(style.width).saturating_sub(others + PADDING)
}

/// Everything in a row but the note.
fn texts(data: &ReportData, point: &Point, decimals: Decimals) -> [String; 6] {
    let proposer = match point.status {
        Status::Baseline => String::new(),
        _ => format!("{} {}", point.proposer, point.operator),
    };
    let is_best = point.index > 0 && data.lineage.last() == Some(&point.index);
    [
        point.index.to_string(),
        cleaned(&point.id),
        cleaned(proposer.trim()),
        decimals.optional(point.score),
        point.gain.as_ref().map(|gain| decimals.gain(gain)).unwrap_or_default(),
        cleaned(if is_best { "kept, the best" } else { result_word(point) }),
    ]
}

fn row(data: &ReportData, point: &Point, decimals: Decimals, room: usize) -> Row {
    let is_best = data.lineage.last() == Some(&point.index);
    let colour = match point.status {
        Status::Kept => Some(Color::Green),
        Status::Failed => Some(Color::Red),
        Status::Discarded | Status::Pending => Some(Color::DarkGrey),
        Status::Baseline => None,
    };
    let cell = |text: String| {
        let cell = Cell::new(text);
        let cell = if is_best { cell.add_attribute(Attribute::Bold) } else { cell };
        match colour {
            Some(colour) => cell.fg(colour),
            None => cell,
        }
    };
    let mut cells: Vec<Cell> = texts(data, point, decimals).into_iter().map(cell).collect();
    if room >= LEAST_NOTE {
        cells.insert(3, cell(shortened(&cleaned(&point.note), room - 1)));
    }
    Row::from(cells)
}

/// What the table leaves out, in a sentence.
fn rest(data: &ReportData, shown: usize) -> String {
    let hidden = data.points.len() - shown;
    if hidden == 0 {
        return String::new();
    }
    let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
    for point in data.points.iter().filter(|p| p.status == Status::Failed) {
        *failures.entry(result_word(point)).or_default() += 1;
    }
    let mut failures: Vec<(&str, u64)> = failures.into_iter().collect();
    failures.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let failed = data.count(Status::Failed);
    let others = hidden.saturating_sub(failed) as u64;
    let mut parts = Vec::new();
    if others > 0 {
        parts.push(format!("{} no better", count(others)));
    }
    if failed > 0 {
        let kinds: Vec<String> = failures.iter().map(|(code, n)| format!("{} {n}", cleaned(code))).collect();
        parts.push(format!("{} failed ({})", count(failed as u64), kinds.join(", ")));
    }
    format!("Not shown: {}.", parts.join(", "))
}

fn knobs(data: &ReportData, style: Style) -> String {
    if data.changes.knobs.is_empty() {
        return String::new();
    }
    let mut table = table(style);
    for knob in &data.changes.knobs {
        let new = Cell::new(cleaned(&knob.new)).fg(Color::Green);
        table.add_row(Row::from(vec![
            Cell::new(cleaned(&knob.name)),
            Cell::new(cleaned(&knob.old)).fg(Color::Red).set_alignment(CellAlignment::Right),
            Cell::new("→"),
            new,
        ]));
    }
    format!("{}\n{}\n", style.paint("1", "Knobs of the best"), table.trim_fmt())
}

fn source(data: &ReportData, style: Style) -> String {
    let changes = &data.changes;
    if let Some(why) = &changes.missing {
        return wrapped(&format!("The sources cannot be compared: {}", cleaned(why)), style.width);
    }
    if changes.source.is_empty() {
        return String::new();
    }
    let lines: Vec<diff::DiffLine> = changes
        .source
        .iter()
        .take(MOST_DIFF_LINES)
        .map(|line| diff::DiffLine { kind: line.kind, text: shortened(&line.text, MOST_DIFF_COLUMNS) })
        .collect();
    let mut text =
        format!("{}\n{}", style.paint("1", "Source of the best"), diff::terminal(&lines, style.colour));
    let more = changes.source[lines.len()..]
        .iter()
        .filter(|l| matches!(l.kind, LineKind::Added | LineKind::Removed));
    match more.count() as u64 {
        0 => {}
        more => text
            .push_str(&format!("… {} in the report\n", of(more, "more changed line", "more changed lines"))),
    }
    text
}

fn verdict(data: &ReportData, style: Style) -> String {
    let verdict = Verdict::of(data);
    let code = match verdict.standing {
        Standing::Better => "1;32",
        Standing::Worse => "1;31",
        Standing::Undecided | Standing::Unchanged | Standing::Unknown => "1",
    };
    let headline = style.paint(code, &verdict.headline);
    format!("{headline}\n{}", wrapped(&cleaned(&verdict.paragraph()), style.width.min(96)))
}

/// At most so many characters, `…` where something was cut off.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
    }
}

/// Lines of at most `width` characters, each with a line feed; longer words
/// stand alone.
fn wrapped(text: &str, width: u16) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > usize::from(width) {
            lines.push('\n');
            column = 0;
        }
        if column > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    if !lines.is_empty() {
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_wrapped_and_cut_at_characters() {
        assert_eq!(wrapped("a bb  ccc\ndddd", 6), "a bb\nccc\ndddd\n");
        assert_eq!(wrapped("", 6), "");
        assert_eq!(wrapped("longerthanthat x", 6), "longerthanthat\nx\n");
        assert_eq!(shortened("äöü", 2), "äö…");
        assert_eq!(shortened("äö", 2), "äö");
    }
}
