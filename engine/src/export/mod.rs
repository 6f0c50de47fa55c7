//! A run's archive as files for other tools: two tables, `candidates` and
//! `evaluations`, each as Parquet, JSON lines and CSV, and `results.tsv` in
//! the columns of autoresearch.

mod table;

use crate::archive::BestPoint;
use crate::candidate::Candidate;
use crate::error::EngineError;
use crate::evaluate::{EvaluationRecord, Split};
use crate::run::RunFolder;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use table::{Kind, Table, Value};

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet, one row group, Snappy.
    Parquet,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated, with a header (RFC 4180). Text that a spreadsheet
    /// would take for a formula gets a `'` before it.
    Csv,
    /// `results.tsv`: `commit`, metric, `memory_gb`, `status`, `description`.
    Tsv,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Parquet, Self::Jsonl, Self::Csv, Self::Tsv];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
        }
    }
}

/// Writes the tables of a run into `folder`, which is created; returns the
/// files. Each appears whole or not at all; older ones of the same name are
/// replaced.
pub fn export(run: &RunFolder, folder: &Path, formats: &[Format]) -> Result<Vec<PathBuf>, EngineError> {
    let archive = run.archive();
    let candidates = archive.candidates()?;
    let evaluations = archive.evaluations()?;
    let points = archive.best_so_far()?;
    std::fs::create_dir_all(folder).map_err(|e| EngineError::io("create", folder, e))?;
    let mut written = Vec::new();
    let mut write = |name: String, bytes: Vec<u8>| -> Result<(), EngineError> {
        let path = folder.join(name);
        let failed = |e| EngineError::io("write", &path, e);
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        written.push(path);
        Ok(())
    };
    let tables = [candidates_table(&candidates, &points), evaluations_table(&evaluations)];
    for format in formats {
        for table in &tables {
            let bytes = match format {
                Format::Parquet => table.parquet(),
                Format::Jsonl => Ok(table.jsonl()),
                Format::Csv => table.csv(),
                Format::Tsv => continue,
            };
            let name = format!("{}.{}", table.name, format.name());
            let bytes =
                bytes.map_err(|e| EngineError::io("write", &folder.join(&name), std::io::Error::other(e)))?;
            write(name, bytes)?;
        }
        if *format == Format::Tsv {
            let metric = &run.task().header.metric.name;
            write("results.tsv".into(), results(metric, &candidates, &evaluations, &points).into_bytes())?;
        }
    }
    Ok(written)
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

fn number(value: Option<f64>) -> Value {
    value.map_or(Value::Nothing, Value::Number)
}

/// Counts fit: fuel and bytes have limits far below 2⁶³.
fn count(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn candidates_table(candidates: &[Candidate], points: &[BestPoint]) -> Table {
    let points: HashMap<_, _> = points.iter().map(|point| (&point.candidate, point)).collect();
    let columns = vec![
        ("candidate", Kind::Text),
        ("generation", Kind::Integer),
        ("parent", Kind::Text),
        ("second_parent", Kind::Text),
        ("proposer", Kind::Text),
        ("operator", Kind::Text),
        ("note", Kind::Text),
        ("source", Kind::Text),
        ("knobs", Kind::Text),
        ("score", Kind::Number),
        ("seeds", Kind::Integer),
        ("kept", Kind::Integer),
        ("best_so_far", Kind::Number),
    ];
    let row = |candidate: &Candidate| {
        let point = points.get(&candidate.id);
        let optional = |id: &Option<_>| {
            id.as_ref().map_or(Value::Nothing, |id: &crate::ids::CandidateId| text(id.as_str()))
        };
        vec![
            text(candidate.id.as_str()),
            count(candidate.generation.into()),
            optional(&candidate.parent),
            optional(&candidate.second_parent),
            text(&candidate.origin.proposer),
            text(&candidate.origin.operator),
            text(&candidate.origin.note),
            text(candidate.source.as_str()),
            text(serde_json::json!(candidate.knobs).to_string()),
            number(point.and_then(|p| p.score)),
            count(point.map_or(0, |p| p.seeds.into())),
            count(point.is_some_and(|p| p.kept).into()),
            number(point.and_then(|p| p.best)),
        ]
    };
    Table { name: "candidates", columns, rows: candidates.iter().map(row).collect() }
}

fn evaluations_table(evaluations: &[EvaluationRecord]) -> Table {
    let columns = vec![
        ("candidate", Kind::Text),
        ("split", Kind::Text),
        ("seed", Kind::Integer),
        ("outcome", Kind::Text),
        ("score", Kind::Number),
        ("fuel", Kind::Integer),
        ("device_fuel", Kind::Integer),
        ("forward_device_fuel", Kind::Integer),
        ("peak_memory_bytes", Kind::Integer),
        ("peak_device_bytes", Kind::Integer),
        ("train_us", Kind::Integer),
        ("score_us", Kind::Integer),
        ("total_us", Kind::Integer),
        ("finished_unix_ms", Kind::Integer),
    ];
    let row = |record: &EvaluationRecord| {
        let (usage, timing) = (&record.result.usage, &record.result.timing);
        vec![
            text(record.key.candidate.as_str()),
            text(record.key.split.name()),
            count(record.key.seed),
            text(record.result.outcome.code()),
            number(record.result.score),
            usage.fuel.map_or(Value::Nothing, count),
            count(usage.device_fuel),
            count(usage.forward_device_fuel),
            count(usage.peak_memory_bytes),
            count(usage.peak_device_bytes),
            count(timing.train_us),
            count(timing.score_us),
            count(timing.total_us),
            count(record.finished_unix_ms),
        ]
    };
    Table { name: "evaluations", columns, rows: evaluations.iter().map(row).collect() }
}

/// As autoresearch keeps its log: a crash has score 0 and memory 0.
fn results(
    metric: &str,
    candidates: &[Candidate],
    evaluations: &[EvaluationRecord],
    points: &[BestPoint],
) -> String {
    let mut memory: HashMap<_, u64> = HashMap::new();
    for record in evaluations.iter().filter(|r| r.key.split == Split::Selection) {
        let usage = &record.result.usage;
        let peak = usage.peak_memory_bytes.saturating_add(usage.peak_device_bytes);
        let most = memory.entry(&record.key.candidate).or_default();
        *most = peak.max(*most);
    }
    let cell = |text: &str| text.replace(['\t', '\n', '\r'], " ");
    let mut out = format!("commit\t{}\tmemory_gb\tstatus\tdescription\n", cell(metric));
    for (candidate, point) in candidates.iter().zip(points) {
        let peak = memory.get(&candidate.id).copied().unwrap_or(0) as f64 / f64::from(1u32 << 30);
        let (score, gigabytes, status) = match point.score {
            Some(score) if point.kept => (score, peak, "keep"),
            Some(score) => (score, peak, "discard"),
            None => (0.0, 0.0, "crash"),
        };
        let note = if candidate.parent.is_none() { "baseline" } else { &candidate.origin.note };
        let short: String = candidate.id.as_str().chars().take(7).collect();
        out.push_str(&format!("{short}\t{score:.6}\t{gigabytes:.1}\t{status}\t{}\n", cell(note)));
    }
    out
}
