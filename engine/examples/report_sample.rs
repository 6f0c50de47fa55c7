//! Renders the report of an invented run, to look at: no sandbox is needed.
//!
//! `cargo run --release --example report_sample -- report.html [--maximize]`
//! writes the page and prints the summary.

use std::collections::BTreeMap;
use terrarium_engine::archive::OutcomeCount;
use terrarium_engine::diff::{KnobChange, unified};
use terrarium_engine::gate::Gain;
use terrarium_engine::ids::{BlobId, CandidateId};
use terrarium_engine::ledger::{FinalComparison, ScoreSummary};
use terrarium_engine::report::terminal::{Style, render};
use terrarium_engine::report::{
    Changes, LedgerFacts, Point, ProposerShare, ReportData, RunFacts, Spent, Status, Yardstick, page,
};
use terrarium_engine::seeds::SplitMix64;
use terrarium_engine::task::{Direction, Metric};

const NOISE: f64 = 0.0069;
const FAILURES: [&str; 4] = ["compile-error", "not-finite", "device-fuel", "trap"];
const OPERATORS: [(&str, &str, &str); 4] = [
    ("knobs", "model", "matrix_rate 0.02 → 0.031, warmup 0.1 → 0.04"),
    ("mutate", "scale-literal", "fn schedule: 0.65 → 0.8125 in `Decay::linear`"),
    ("mutate", "swap-binary-op", "fn block: `+` → `-` beside the residual"),
    ("crossover", "function", "fn feed_forward from the second parent"),
];

const OLD: &str = "    fn feed_forward(&self, tape: &mut Tape, x: Var) -> Result<Var> {
        let hidden = tape.matmul(x, self.up)?;
        let active = tape.relu(hidden)?;
        let active = tape.mul(active, active)?;
        tape.matmul(active, self.down)
    }

    fn schedule(&self, progress: f32) -> f32 {
        let cooldown = 0.40;
        if progress < 1.0 - cooldown {
            1.0
        } else {
            (1.0 - progress) / cooldown
        }
    }
";

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let direction =
        if arguments.iter().any(|a| a == "--maximize") { Direction::Maximize } else { Direction::Minimize };
    let data = sample(direction);
    print!("{}", render(&data, Style::of_stdout()));
    match arguments.iter().find(|a| !a.starts_with("--")) {
        Some(path) => std::fs::write(path, page(&data)),
        None => Ok(()),
    }
}

fn id(number: usize) -> CandidateId {
    CandidateId::of(&BlobId::of(&number.to_le_bytes()), &BTreeMap::new())
}

fn normal(rng: &mut SplitMix64) -> f64 {
    (-2.0 * (1.0 - rng.unit()).ln()).sqrt() * (std::f64::consts::TAU * rng.unit()).cos()
}

fn sample(direction: Direction) -> ReportData {
    let mut rng = SplitMix64::new(4);
    let sign = if direction == Direction::Minimize { 1.0 } else { -1.0 };
    let start = 2.6143;
    let mut points = vec![baseline(start)];
    let mut incumbent = 0;
    let kept_at = [4, 11, 19, 33, 34];
    for index in 1..=42 {
        let best = points[incumbent].best.unwrap_or(start);
        let (proposer, operator, note) = OPERATORS[rng.below(OPERATORS.len())];
        let mut point = Point {
            index,
            id: id(index).short().to_owned(),
            generation: 1 + (index as u32 - 1) / 6,
            proposer: proposer.into(),
            operator: operator.into(),
            note: note.into(),
            parents: if proposer == "crossover" { vec![incumbent, index / 2] } else { vec![incumbent] },
            incumbent: Some(incumbent),
            best: Some(best),
            ..baseline(start)
        };
        if kept_at.contains(&index) {
            let step = 0.055 / (1.0 + index as f64 / 12.0);
            let gains: Vec<f64> = (0..6).map(|_| step + NOISE * 0.8 * normal(&mut rng)).collect();
            let gain = Gain::of(&gains, NOISE);
            let score = best - sign * gain.as_ref().map_or(step, |g| g.mean);
            point.status = Status::Kept;
            point.reason = "better beyond noise".into();
            (point.score, point.best, point.seeds, point.gain) = (Some(score), Some(score), 6, gain);
            incumbent = index;
        } else if rng.unit() < 0.16 {
            point.status = Status::Failed;
            point.outcome = FAILURES[rng.below(FAILURES.len())].into();
            point.reason = format!("{}: line 31: mismatched types", point.outcome);
            (point.score, point.seeds) = (None, 1);
        } else {
            let far = if rng.unit() < 0.1 { 1.4 } else { 0.03 + 0.10 * rng.unit() };
            let pairs = if far < 0.06 { 4 } else { 1 };
            let gains: Vec<f64> = (0..pairs).map(|_| 0.03 - far + NOISE * normal(&mut rng)).collect();
            point.status = Status::Discarded;
            point.reason =
                if pairs == 1 { "clearly worse on the first seed" } else { "no better after 4 pairs" }.into();
            point.score = Some(best - sign * gains.iter().sum::<f64>() / f64::from(pairs));
            (point.seeds, point.gain) = (pairs as u32, Gain::of(&gains, NOISE));
        }
        points.push(point);
    }
    let lineage: Vec<usize> = std::iter::once(0).chain(kept_at).collect();
    let best = points[incumbent].score.unwrap_or(start);
    assemble(direction, &mut rng, points, lineage, (start, best))
}

fn baseline(score: f64) -> Point {
    Point {
        index: 0,
        id: id(0).short().to_owned(),
        generation: 0,
        proposer: "baseline".into(),
        operator: String::new(),
        note: String::new(),
        parents: Vec::new(),
        status: Status::Baseline,
        reason: String::new(),
        score: Some(score),
        seeds: 5,
        outcome: "finished".into(),
        gain: None,
        incumbent: None,
        best: Some(score),
    }
}

fn assemble(
    direction: Direction,
    rng: &mut SplitMix64,
    points: Vec<Point>,
    lineage: Vec<usize>,
    (start, best): (f64, f64),
) -> ReportData {
    let seeds: Vec<u64> = (1..=5).collect();
    let mut scores = |mean: f64| (0..5).map(|_| Some(mean + NOISE * normal(rng))).collect::<Vec<_>>();
    let noise = ScoreSummary::new(id(0), seeds.clone(), scores(start));
    let of_baseline = ScoreSummary::new(id(0), seeds.clone(), scores(start + 0.031));
    let of_best = ScoreSummary::new(id(34), seeds, scores(best + 0.034));
    let gains: Vec<f64> = of_best
        .scores
        .iter()
        .zip(&of_baseline.scores)
        .filter_map(|(new, old)| Some(direction.gain((*new)?, (*old)?)))
        .collect();
    let gain = Gain::of(&gains, NOISE);
    let new = OLD.replace("let cooldown = 0.40;", "let cooldown = 0.8125;").replace(
        "        let active = tape.mul(active, active)?;\n",
        "        let active = tape.mul(active, hidden)?;\n",
    );
    let knob =
        |name: &str, old: &str, new: &str| KnobChange { name: name.into(), old: old.into(), new: new.into() };
    let outcome =
        |code: &str, evaluations, candidates| OutcomeCount { code: code.into(), evaluations, candidates };
    let proposers = shares(&points);
    ReportData {
        run: RunFacts {
            task: "gpt".into(),
            title: "Train a small GPT on source code, within a compute budget".into(),
            folder: "runs/gpt-1".into(),
            engine: "terrarium 0.1.0".into(),
            seed: 1,
            identity: "rustc 1.95.0; sdk 5f1c; wasmtime 48.0.8 cranelift speed; device cpu x86-64-v3".into(),
            device: "cpu x86-64-v3".into(),
            held_out_files: true,
            generations_planned: 7,
            generations: 7,
            recorded_unix_ms: Some((1_773_065_100_000, 1_773_065_436_000)),
        },
        metric: Metric { name: "val_bpb".into(), direction },
        noise: Some(noise),
        comparison: Some(FinalComparison {
            beats_noise: gain.as_ref().is_some_and(Gain::beats_noise),
            baseline: of_baseline,
            best: of_best,
            gain,
        }),
        stopped: None,
        xz: Yardstick { selection: Some(1.87), last: Some(1.91) },
        points,
        lineage,
        changes: Changes {
            source: unified(OLD, &new),
            knobs: vec![
                knob("matrix_rate", "0.02", "0.0314"),
                knob("warmup", "0.1", "0.04"),
                knob("windows", "L", "SSL"),
            ],
            missing: None,
        },
        outcomes: vec![
            outcome("finished", 118, 36),
            outcome("compile-error", 4, 4),
            outcome("not-finite", 2, 2),
            outcome("device-fuel", 1, 1),
        ],
        spent: Spent {
            selection_evaluations: 115,
            final_evaluations: 10,
            failed_evaluations: 7,
            fuel: 48_120_000_000,
            device_fuel: 24_310_000_000_000,
            device_profile: [
                ("matmul", 14_820),
                ("attention-backward", 3_110),
                ("cross-entropy", 2_650),
                ("attention", 1_480),
                ("row-map", 1_020),
                ("norm", 640),
                ("adamw", 410),
                ("gather", 180),
            ]
            .map(|(name, g)| (name.to_owned(), g * 1_000_000_000))
            .to_vec(),
            phases: vec![
                ("building", 14_200_000),
                ("starting", 1_840_000),
                ("training, in kernels", 521_000_000),
                ("training, outside kernels", 4_900_000),
                ("scoring held-out text", 71_000_000),
                ("everything else", 2_300_000),
            ],
            train_us: 525_900_000,
            train_kernel_us: 521_000_000,
        },
        proposers,
        ledger: LedgerFacts { events: 271, head: BlobId::of(b"head").to_string(), broken: None },
    }
}

fn shares(points: &[Point]) -> Vec<ProposerShare> {
    let gain =
        |p: &Point| if p.status == Status::Kept { p.gain.as_ref().map_or(0.0, |g| g.mean) } else { 0.0 };
    let whole: f64 = points.iter().map(gain).sum();
    let of = |name: &str| {
        let mine = || points.iter().filter(|p| p.proposer == name);
        let number = |status| mine().filter(|p| p.status == status).count() as u64;
        let sum: f64 = mine().map(gain).sum();
        ProposerShare {
            name: name.into(),
            proposals: mine().count() as u64,
            failed: number(Status::Failed),
            kept: number(Status::Kept),
            gain: sum,
            share: Some(sum / whole),
        }
    };
    ["knobs", "mutate", "crossover"].map(of).to_vec()
}
