use super::terminal::{Style, render};
use super::*;
use crate::diff::LineKind;
use crate::evaluate::EvaluationKey;
use crate::fake::{self, Quadratic, new_run, small_search};
use crate::gate::Gain;
use crate::observer::RunEvent;
use crate::run::RunFolder;
use crate::search::RunEnd;
use crate::task::{Direction, SearchConfig};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const PLAIN: Style = Style { width: 100, colour: false };

/// A whole run on the fake task, in a folder that goes away.
fn finished(search: SearchConfig, evaluator: Quadratic, seed: u64) -> (tempfile::TempDir, RunFolder) {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(&home.path().join("run"), search, seed);
    let end = fake::run(&folder, &evaluator, 2, &fake::Tell(|_| {})).unwrap();
    assert!(matches!(end, RunEnd::Finished(_)));
    (home, folder)
}

fn usual() -> ReportData {
    let (_home, folder) = finished(small_search(), Quadratic::default(), 1);
    ReportData::of(&folder).unwrap()
}

/// What must hold of every page.
fn sound(data: &ReportData) -> String {
    let html = page(data);
    for bad in ["NaN", "inf\"", "-inf", "<script", "http://", "https://", "javascript:", "\u{202e}", "\x1b"] {
        let found = html.find(bad).map(|at| html[at..].chars().take(60).collect::<String>());
        assert_eq!(found, None, "{bad:?}");
    }
    for heading in [
        "Best so far",
        "Lineage of the best",
        "What the best changed",
        "How evaluations ended",
        "All candidates",
        "The record",
    ] {
        assert!(html.contains(heading), "{heading}");
    }
    assert!(html.contains("default-src 'none'"));
    for tag in ["section", "table", "svg", "div", "span", "details", "ol", "dl", "pre"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
    let text = render(data, PLAIN);
    assert!(!text.contains("NaN") && !text.contains('\x1b') && text.ends_with('\n'), "{text}");
    html
}

#[test]
fn a_finished_run_is_told_whole() {
    let (_home, folder) = finished(small_search(), Quadratic::default(), 1);
    let data = ReportData::of(&folder).unwrap();
    let archive = folder.archive();
    // Against the archive's own account.
    assert_eq!(data.comparison, archive.final_comparison().unwrap());
    assert_eq!(data.noise, archive.noise_floor().unwrap());
    let told: Vec<_> = data
        .points
        .iter()
        .map(|p| (p.score, p.seeds, p.best, p.status == Status::Kept || p.index == 0))
        .collect();
    let curve: Vec<_> =
        archive.best_so_far().unwrap().into_iter().map(|p| (p.score, p.seeds, p.best, p.kept)).collect();
    assert_eq!(told, curve);
    assert_eq!(data.outcomes, archive.outcomes().unwrap());
    let totals = archive.totals().unwrap();
    assert_eq!((data.spent.fuel, data.spent.final_evaluations), (totals.fuel, totals.final_evaluations));
    assert_eq!(data.ledger.head, archive.head().1);
    let best = data.comparison.as_ref().unwrap().best.candidate.clone();
    assert_eq!(data.winner().map(|w| w.id.as_str()), Some(best.short()));
    assert_eq!((data.lineage[0], data.ledger.broken.as_ref()), (0, None));
    let proposals: u64 = data.proposers.iter().map(|p| p.proposals).sum();
    assert_eq!(proposals as usize + 1, data.points.len());
    let shares: f64 = data.proposers.iter().filter_map(|p| p.share).sum();
    assert!(data.count(Status::Kept) > 0 && (shares - 1.0).abs() < 1e-9, "{:?}", data.proposers);

    let html = sound(&data);
    // Each candidate: a row, and a mark with a title in either drawing.
    assert_eq!(html.matches("<title>#").count(), 2 * data.points.len());
    for point in &data.points {
        assert_eq!(html.matches(&format!("<title>#{} {}:", point.index, point.id)).count(), 2);
    }
    assert!(html.contains(&data.ledger.head));
}

#[test]
fn a_report_of_many_candidates_stays_small() {
    let mut data = usual();
    let one = data.points.last().unwrap().clone();
    let baseline = data.points[0].score.unwrap();
    let more = (data.points.len()..100_000).map(|index| {
        let score = baseline + (index % 997) as f64 / 997.0;
        Point { index, score: Some(score), status: Status::Discarded, ..one.clone() }
    });
    data.points.extend(more.collect::<Vec<_>>());
    let html = sound(&data);
    assert!(html.len() < 8 << 20, "{} bytes", html.len());
    assert!(html.contains("writes all of them"));
    for kept in data.points.iter().filter(|p| p.status == Status::Kept) {
        assert_eq!(html.matches(&format!("<title>#{} {}:", kept.index, kept.id)).count(), 2);
        assert!(html.contains(&format!("<td class=\"number\">{}</td>", kept.index)));
    }
}

#[test]
fn the_verdict_is_that_of_the_comparison() {
    let mut data = usual();
    assert_eq!(Verdict::of(&data).standing, Standing::Better);
    let text = render(&data, PLAIN);
    assert!(text.contains("beyond noise") && text.contains("lower by"), "{text}");
    assert!(text.contains(" paired seeds"), "{text}");

    let set = |data: &mut ReportData, gains: &[f64]| {
        data.comparison.as_mut().unwrap().gain = Gain::of(gains, 0.01);
        let verdict = Verdict::of(data);
        (verdict.standing, verdict.paragraph())
    };
    let (standing, text) = set(&mut data, &[-0.3, -0.31, -0.29]);
    assert_eq!(standing, Standing::Worse);
    assert!(text.contains("higher by 0.300") && text.contains("lies below zero"), "{text}");
    let (standing, text) = set(&mut data, &[-0.3, 0.31, 0.1]);
    assert_eq!(standing, Standing::Undecided);
    assert!(text.contains("may be noise"), "{text}");
    data.metric.direction = Direction::Maximize;
    let (_, text) = set(&mut data, &[0.3, 0.31, 0.29]);
    assert!(text.contains("higher by 0.300"), "{text}");
    assert_eq!(set(&mut data, &[]).0, Standing::Unknown);

    data.xz.last = Some(1.25);
    assert!(Verdict::of(&data).paragraph().contains("xz -9 reaches 1.25"));
    data.ledger.broken = Some("event 3: gone".into());
    assert!(Verdict::of(&data).paragraph().contains("do not rely"));
    sound(&data);
}

#[test]
fn nothing_kept_and_nothing_but_failures() {
    let no_better = Quadratic { null: true, ..Quadratic::default() };
    let (_home, folder) = finished(SearchConfig { generations: 1, ..small_search() }, no_better, 3);
    let mut data = ReportData::of(&folder).unwrap();
    assert_eq!(Verdict::of(&data).standing, Standing::Unchanged);
    assert!(sound(&data).contains("Nothing: it is the baseline."));
    for point in data.points.iter_mut().skip(1) {
        (point.status, point.score, point.outcome) = (Status::Failed, None, "trap".into());
    }
    let html = sound(&data);
    assert_eq!(
        html.matches("class=\"failed\"").count(),
        2 * (data.points.len() - 1) + 1 + (data.points.len() - 1)
    );
    let text = render(&data, PLAIN);
    assert!(
        text.contains(&format!("{} failed (trap {})", data.points.len() - 1, data.points.len() - 1)),
        "{text}"
    );
    // The baseline failed as well: there is nothing to draw.
    (data.points[0].score, data.points[0].best, data.noise) = (None, None, None);
    for point in &mut data.points {
        point.best = None;
    }
    assert!(sound(&data).contains("No candidate has a score yet."));
}

#[test]
fn a_run_that_has_hardly_begun() {
    let home = tempfile::tempdir().unwrap();
    let folder = new_run(&home.path().join("run"), small_search(), 1);
    let none = ReportData::of(&folder).unwrap();
    assert_eq!((none.points.len(), none.lineage.len()), (0, 0));
    assert!(sound(&none).contains("terrarium resume "));
    assert!(render(&none, PLAIN).contains("No candidates yet."));

    // Interrupted once the second generation has begun.
    let stop = AtomicBool::new(false);
    let seen = AtomicU32::new(0);
    let tell = fake::Tell(|event: &RunEvent| {
        if matches!(event, RunEvent::Proposed { .. }) && seen.fetch_add(1, Ordering::SeqCst) == 4 {
            stop.store(true, Ordering::SeqCst);
        }
    });
    let end = fake::run_until(&folder, &Quadratic::default(), 1, &tell, &stop, None).unwrap();
    assert_eq!(end, RunEnd::Drained);
    let some = ReportData::of(&folder).unwrap();
    assert!(some.count(Status::Pending) > 0 && some.comparison.is_none());
    let html = sound(&some);
    assert!(html.contains("Not finished") && html.contains("not decided yet"));

    let mut one = some;
    one.points.truncate(1);
    one.lineage.truncate(1);
    let html = sound(&one);
    assert!(
        html.contains("class=\"start\"") && html.contains("Nothing was proposed yet")
            || !one.proposers.is_empty()
    );
    assert!(render(&one, Style { width: 1, colour: true }).contains("Not finished"));
}

#[test]
fn hostile_words_stay_words() {
    let hostile =
        "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u{202e}\"'&\u{2067}\n\u{7}";
    let mut data = usual();
    data.run.task = hostile.into();
    data.run.title = hostile.into();
    data.run.folder = hostile.into();
    data.run.identity = hostile.into();
    data.run.device = hostile.into();
    data.run.engine = hostile.into();
    data.metric.name = hostile.into();
    data.ledger.broken = Some(hostile.into());
    for point in &mut data.points {
        for text in
            [&mut point.proposer, &mut point.operator, &mut point.note, &mut point.reason, &mut point.outcome]
        {
            *text = hostile.into();
        }
    }
    for share in &mut data.proposers {
        share.name = hostile.into();
    }
    for outcome in &mut data.outcomes {
        outcome.code = hostile.into();
    }
    data.spent.device_fuel = 1;
    data.spent.device_profile = vec![(hostile.into(), 1)];
    data.changes.knobs =
        vec![crate::diff::KnobChange { name: hostile.into(), old: hostile.into(), new: hostile.into() }];
    data.changes.source = [LineKind::Hunk, LineKind::Context, LineKind::Added, LineKind::Removed]
        .map(|kind| DiffLine { kind, text: hostile.into() })
        .to_vec();
    let html = sound(&data);
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(!html.contains("<img") && !html.contains('\u{7}') && !html.contains('\u{2067}'));
    data.changes.missing = Some(hostile.into());
    sound(&data);
    // On a terminal, only our own colours are left.
    let painted = render(&data, Style { width: 120, colour: true });
    assert!(!painted.contains("\x1b[2J") && !painted.contains('\u{202e}') && !painted.contains('\u{7}'));
    assert!(painted.contains("\x1b["));
}

#[test]
fn the_curve_does_not_go_back_among_the_siblings_of_one_that_was_kept() {
    let mut data = usual();
    data.points.truncate(4);
    for (point, (status, best)) in data.points.iter_mut().zip([
        (Status::Baseline, 3.0),
        (Status::Discarded, 3.0),
        (Status::Kept, 2.0),
        (Status::Discarded, 3.0),
    ]) {
        (point.status, point.score, point.best) = (status, Some(best), Some(best));
        point.generation = u32::from(point.index > 0);
    }
    assert_eq!(super::plot::bests(&data), [(0, 3.0), (1, 3.0), (2, 2.0), (3, 2.0)]);
}

#[test]
fn numbers_out_of_this_world_stay_inside_the_frame() {
    let mut data = usual();
    let wild = [f64::MAX, -f64::MAX, f64::MIN_POSITIVE, 0.0, 1e99, f64::NAN, f64::INFINITY];
    for (point, value) in data.points.iter_mut().zip(wild.into_iter().cycle()) {
        point.score = Some(value);
        point.best = Some(value);
    }
    for direction in [Direction::Minimize, Direction::Maximize] {
        data.metric.direction = direction;
        let html = sound(&data);
        for (name, limit) in [("cx", 1040.0), ("cy", 430.0)] {
            for value in attribute(&html, name) {
                assert!((0.0..=limit).contains(&value), "{name} = {value}");
            }
        }
    }
    for point in &mut data.points {
        (point.score, point.best) = (Some(1.0), Some(1.0));
    }
    data.noise = None;
    sound(&data);
}

fn attribute(html: &str, name: &str) -> Vec<f64> {
    let mark = format!(" {name}=\"");
    html.split(&mark).skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_broken_ledger_is_told_and_does_not_stop_the_report() {
    let (home, folder) = finished(small_search(), Quadratic::default(), 1);
    drop(folder);
    let path = home.path().join("run");
    rusqlite::Connection::open(path.join("terrarium.db"))
        .unwrap()
        .execute("UPDATE ledger SET event = 'nonsense' WHERE seq = 3", [])
        .unwrap();
    let data = ReportData::of(&RunFolder::open_to_read(&path).unwrap()).unwrap();
    assert!(data.ledger.broken.as_ref().is_some_and(|what| what.starts_with("event 3:")));
    assert!(sound(&data).contains("The ledger is broken at event 3"));
}

#[test]
fn a_lost_source_is_told_and_does_not_stop_the_report() {
    let (_home, folder) = finished(small_search(), Quadratic::default(), 1);
    let baseline = folder.blobs().path(&folder.baseline().source);
    std::fs::remove_file(&baseline).unwrap();
    let data = ReportData::of(&folder).unwrap();
    assert!(data.changes.missing.is_some());
    assert!(sound(&data).contains("A source could not be read"));
}

#[test]
fn the_table_keeps_to_its_width() {
    let data = usual();
    for width in [40, 60, 80, 100, 140] {
        let text = render(&data, Style { width, colour: false });
        let table = text.split("\n\n").next().unwrap();
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= usize::from(width), "{widest} > {width}:\n{table}");
    }
    let shown = render(&data, PLAIN);
    let id = |p: &&Point| shown.contains(&p.id);
    assert!(data.points.iter().filter(|p| p.status == Status::Kept).all(|p| id(&p)));
    let hidden = data.points.iter().filter(|p| !id(p)).count();
    assert!(hidden > 0 && shown.contains("Not shown: "), "{shown}");
}

#[test]
fn the_build_of_a_component_is_counted_once() {
    let (_home, folder) = finished(small_search(), Quadratic::default(), 1);
    let archive = folder.archive();
    let template = archive.evaluations().unwrap().remove(0);
    for seed in 0..3 {
        let mut record = template.clone();
        record.key = EvaluationKey { seed: 1 << 40 | seed, ..record.key };
        let build = record.build.get_or_insert_default();
        (build.component, build.cached, build.time.total_us) = ("one".into(), false, 700);
        archive.record(record.into()).unwrap();
    }
    let data = ReportData::of(&folder).unwrap();
    assert_eq!(data.spent.phases.first(), Some(&("building", 700)));
}

#[test]
fn the_yardstick_lies_beside_the_shards() {
    let home = tempfile::tempdir().unwrap();
    let task = fake::task(small_search());
    for name in ["train.bin", "val.bin", "final.bin"] {
        std::fs::write(home.path().join(name), name).unwrap();
    }
    let path = |name: &str| home.path().join(name);
    let data = crate::run::DataSnapshot::take(&path("train.bin"), &path("val.bin"), &path("final.bin"), None)
        .unwrap();
    let new = |at: &Path| {
        let new = crate::run::NewRun {
            task: &task,
            source: "bias = 0\n",
            seed: 1,
            identity: "fake",
            data: Some(data.clone()),
        };
        ReportData::of(&RunFolder::create(at, &new).unwrap()).unwrap()
    };
    let manifest = |schema: &str| {
        let text = format!(
            r#"{{"schema":"{schema}","id":"x","source":"s","shards":[],"xz_bits_per_byte":{{"val":1.5,"final":1.75}},"skipped":[]}}"#
        );
        std::fs::write(path("corpus.json"), text).unwrap();
    };
    assert_eq!(new(&path("a")).xz, Yardstick::default());
    manifest(crate::corpus::SCHEMA);
    assert_eq!(new(&path("b")).xz, Yardstick { selection: Some(1.5), last: Some(1.75) });
    manifest("terrarium-corpus/99");
    assert_eq!(new(&path("c")).xz, Yardstick::default());
}
