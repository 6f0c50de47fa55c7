//! Rows to values and back.

use crate::candidate::{Candidate, Origin};
use crate::evaluate::{Evaluated, EvaluationKey, EvaluationRecord, Split};
use crate::ids::{BlobId, CandidateId};
use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use terrarium_sandbox::Metric;

/// Columns of an evaluation, in the order of [`EvaluationRow::read`].
pub const EVALUATION: &str = "evaluations.candidate, split, seed, outcome, score, usage, evaluations.knobs, \
                              metrics, log, build, timing, finished_unix_ms";

/// A metric's value: JSON has no NaN and no infinities.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredValue {
    Finite(f64),
    Other(String),
}

impl From<f64> for StoredValue {
    fn from(value: f64) -> Self {
        if value.is_finite() { Self::Finite(value) } else { Self::Other(value.to_string()) }
    }
}

impl StoredValue {
    fn value(&self) -> f64 {
        match self {
            Self::Finite(value) => *value,
            Self::Other(text) => text.parse().unwrap_or(f64::NAN),
        }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    // All values here are trees with string keys, which always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| format!("{what}: {e}"))
}

pub fn insert_candidate(connection: &Connection, candidate: &Candidate) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO candidates (id, source, knobs, parent, second_parent, proposer, operator, note, generation, call)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            candidate.id.as_str(),
            candidate.source.as_str(),
            json(&candidate.knobs),
            candidate.parent.as_ref().map(CandidateId::as_str),
            candidate.second_parent.as_ref().map(CandidateId::as_str),
            candidate.origin.proposer,
            candidate.origin.operator,
            candidate.origin.note,
            candidate.generation,
            candidate.origin.call.as_ref().map(json),
        ])
        .map(drop)
}

pub fn insert_evaluation(connection: &Connection, record: &EvaluationRecord) -> rusqlite::Result<()> {
    let EvaluationRecord { key, result, build, finished_unix_ms } = record;
    let metrics: Vec<(&str, u64, StoredValue)> =
        result.metrics.iter().map(|m| (m.name.as_str(), m.step, m.value.into())).collect();
    connection
        .prepare_cached(
            "INSERT INTO evaluations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            key.candidate.as_str(),
            key.split.name(),
            key.seed as i64,
            result.outcome.code(),
            json(&result.outcome),
            result.score,
            json(&result.usage),
            json(&result.knobs),
            json(&metrics),
            result.log,
            build.as_ref().map(json),
            json(&result.timing),
            *finished_unix_ms as i64,
        ])
        .map(drop)
}

/// A candidate as stored.
pub struct CandidateRow {
    id: String,
    source: String,
    knobs: String,
    parent: Option<String>,
    second_parent: Option<String>,
    origin: Origin,
    generation: u32,
    call: Option<String>,
}

impl CandidateRow {
    /// Checks and converts.
    pub fn decode(self) -> Result<Candidate, String> {
        let id = |text: String| CandidateId::try_from(text).map_err(|e| e.to_string());
        let source = BlobId::try_from(self.source).map_err(|e| e.to_string())?;
        let knobs = parse(&self.knobs, "knobs of a candidate")?;
        let named = id(self.id)?;
        if CandidateId::of(&source, &knobs) != named {
            return Err(format!("candidate {} does not hash to its name", named.short()));
        }
        Ok(Candidate {
            id: named,
            source,
            knobs,
            parent: self.parent.map(id).transpose()?,
            second_parent: self.second_parent.map(id).transpose()?,
            origin: Origin {
                call: self.call.map(|text| parse(&text, "call of a candidate")).transpose()?,
                ..self.origin
            },
            generation: self.generation,
        })
    }
}

/// Columns of a candidate, in the order of [`CandidateRow::read`].
const CANDIDATE: &str =
    "id, source, knobs, parent, second_parent, proposer, operator, note, generation, call";

impl CandidateRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            source: row.get(1)?,
            knobs: row.get(2)?,
            parent: row.get(3)?,
            second_parent: row.get(4)?,
            origin: Origin { proposer: row.get(5)?, operator: row.get(6)?, note: row.get(7)?, call: None },
            generation: row.get(8)?,
            call: row.get(9)?,
        })
    }
}

pub fn all_candidates(connection: &Connection) -> rusqlite::Result<Vec<CandidateRow>> {
    let sql = format!("SELECT {CANDIDATE} FROM candidates ORDER BY number");
    connection.prepare(&sql)?.query_map([], CandidateRow::read)?.collect()
}

/// The first few whose ids lie in `from..to`.
pub fn candidates_between(
    connection: &Connection,
    from: &str,
    to: &str,
    most: u32,
) -> rusqlite::Result<Vec<CandidateRow>> {
    let sql = format!("SELECT {CANDIDATE} FROM candidates WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3");
    connection.prepare_cached(&sql)?.query_map(params![from, to, most], CandidateRow::read)?.collect()
}

pub fn evaluations_of(connection: &Connection, id: &CandidateId) -> rusqlite::Result<Vec<EvaluationRow>> {
    let sql = format!("SELECT {EVALUATION} FROM evaluations WHERE candidate = ?1 ORDER BY rowid");
    connection.prepare_cached(&sql)?.query_map([id.as_str()], EvaluationRow::read)?.collect()
}

pub fn all_evaluations(connection: &Connection) -> rusqlite::Result<Vec<EvaluationRow>> {
    let sql = format!(
        "SELECT {EVALUATION} FROM evaluations JOIN candidates ON candidates.id = evaluations.candidate
         ORDER BY candidates.number, split DESC, seed"
    );
    connection.prepare(&sql)?.query_map([], EvaluationRow::read)?.collect()
}

/// An evaluation as stored.
pub struct EvaluationRow {
    candidate: String,
    split: String,
    seed: i64,
    outcome: String,
    score: Option<f64>,
    usage: String,
    knobs: String,
    metrics: String,
    log: String,
    build: Option<String>,
    timing: String,
    finished_unix_ms: i64,
}

impl EvaluationRow {
    /// From the columns of [`EVALUATION`].
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            candidate: row.get(0)?,
            split: row.get(1)?,
            seed: row.get(2)?,
            outcome: row.get(3)?,
            score: row.get(4)?,
            usage: row.get(5)?,
            knobs: row.get(6)?,
            metrics: row.get(7)?,
            log: row.get(8)?,
            build: row.get(9)?,
            timing: row.get(10)?,
            finished_unix_ms: row.get(11)?,
        })
    }

    /// Checks and converts.
    pub fn decode(self) -> Result<EvaluationRecord, String> {
        let split = Split::try_from(self.split)?;
        let candidate = CandidateId::try_from(self.candidate).map_err(|e| e.to_string())?;
        let key = EvaluationKey { candidate, split, seed: self.seed as u64 };
        let metrics: Vec<(String, u64, StoredValue)> = parse(&self.metrics, "metrics of an evaluation")?;
        let result = Evaluated {
            outcome: parse(&self.outcome, "outcome of an evaluation")?,
            score: self.score,
            usage: parse(&self.usage, "usage of an evaluation")?,
            knobs: parse(&self.knobs, "knobs of an evaluation")?,
            metrics: metrics
                .into_iter()
                .map(|(name, step, value)| Metric { name, step, value: value.value() })
                .collect(),
            log: self.log,
            timing: parse(&self.timing, "timing of an evaluation")?,
        };
        let build = self.build.map(|text| parse(&text, "build of an evaluation")).transpose()?;
        Ok(EvaluationRecord { key, result, build, finished_unix_ms: self.finished_unix_ms as u64 })
    }
}
