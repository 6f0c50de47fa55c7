//! What is new since a reader last looked: so that whoever watches a run pays
//! for what happened, and not each time for all that ever did.

use super::{Archive, Place, rows};
use crate::candidate::Candidate;
use crate::error::EngineError;
use crate::evaluate::{EvaluationRecord, Split};
use crate::ids::CandidateId;
use crate::ledger::Event;
use rusqlite::{Connection, OptionalExtension as _, params};

/// How far a reader has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Number of the last candidate.
    number: i64,
    /// The next event.
    seq: i64,
    /// Row of the last evaluation.
    row: i64,
    /// The generation of the last answer: answers of one may come out of order.
    generation: u32,
}

/// One new thing.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A candidate was proposed.
    Candidate(CandidateId),
    /// An evaluation ended.
    Evaluation {
        /// Of this candidate.
        candidate: CandidateId,
        /// The data.
        split: Split,
        /// Score, if it finished.
        score: Option<f64>,
    },
    /// An event, with its number. Evaluations and proposals by others than
    /// people are left out.
    Event(u64, Box<Event>),
    /// An answer of this proposer; may be told more than once.
    Answer(Place, String),
}

impl Archive {
    /// Tells `hear` what is new since `mark`, in the order of recording within
    /// each kind, all of it from one moment; moves the mark. Answers are those
    /// of `proposer`. Returns how many rows were read.
    pub fn since(
        &self,
        mark: &mut Mark,
        proposer: &str,
        mut hear: impl FnMut(News),
    ) -> Result<u64, EngineError> {
        let state = self.settled()?;
        let mut next = *mark;
        let mut bad = None;
        let mut count = 0;
        let mut tell = |news: Result<News, String>| {
            count += 1;
            match news {
                Ok(news) => hear(news),
                Err(what) => drop(bad.get_or_insert(what)),
            }
        };
        let mut read = |connection: &Connection| -> rusqlite::Result<()> {
            // Dropped unfinished, which ends a transaction that wrote nothing.
            let snapshot = connection.unchecked_transaction()?;
            let id = |text: String| CandidateId::try_from(text).map_err(|e| e.to_string());
            let mut select =
                snapshot.prepare_cached("SELECT number, id FROM candidates WHERE number > ?1")?;
            let mut found = select.query([mark.number])?;
            while let Some(row) = found.next()? {
                next.number = row.get(0)?;
                tell(id(row.get(1)?).map(News::Candidate));
            }
            let mut select = snapshot
                .prepare_cached("SELECT rowid, candidate, split, score FROM evaluations WHERE rowid > ?1")?;
            let mut found = select.query([mark.row])?;
            while let Some(row) = found.next()? {
                next.row = row.get(0)?;
                let (candidate, split, score) =
                    (id(row.get(1)?), Split::try_from(row.get::<_, String>(2)?), row.get(3)?);
                tell(
                    candidate.and_then(|candidate| Ok(News::Evaluation { candidate, split: split?, score })),
                );
            }
            let mut select = snapshot.prepare_cached(
                "SELECT generation, place, proposer, answer FROM answers
                 WHERE generation >= ?1 AND proposer = ?2 AND answer IS NOT NULL",
            )?;
            let mut found = select.query(params![mark.generation, proposer])?;
            while let Some(row) = found.next()? {
                next.generation = row.get(0)?;
                let place = Place { generation: row.get(0)?, place: row.get(1)?, proposer: row.get(2)? };
                tell(Ok(News::Answer(place, row.get(3)?)));
            }
            let mut select = snapshot.prepare_cached(
                "SELECT seq, event FROM ledger WHERE seq >= ?1 AND (kind IN ('decided', 'crowned', 'demoted', 'final')
                 OR kind IN ('unused', 'proposed') AND (seq <= 1 OR instr(event, ?2) > 0))",
            )?;
            let needle = format!("\"proposer\":{}", serde_json::Value::from(proposer));
            let mut found = select.query(params![mark.seq, needle])?;
            while let Some(row) = found.next()? {
                let (seq, text): (i64, String) = (row.get(0)?, row.get(1)?);
                let event = serde_json::from_str(&text).map_err(|e| format!("event {seq}: {e}"));
                tell(event.map(|event| News::Event(seq as u64, Box::new(event))));
            }
            let last: Option<i64> =
                snapshot.query_row("SELECT max(seq) FROM ledger", [], |row| row.get(0))?;
            next.seq = last.map_or(0, |last| last + 1);
            Ok(())
        };
        read(&state.connection).map_err(|e| self.failed(e))?;
        match bad {
            Some(what) => Err(self.damaged(what)),
            None => {
                *mark = next;
                Ok(count)
            }
        }
    }

    /// The candidates whose ids begin with these digits: two at most, so that
    /// a caller can tell whether it is one.
    pub fn beginning_with(&self, digits: &str) -> Result<Vec<Candidate>, EngineError> {
        let state = self.settled()?;
        // Ids are hexadecimal: `g` comes after all that begin with these.
        let end = format!("{digits}g");
        let found =
            rows::candidates_between(&state.connection, digits, &end, 2).map_err(|e| self.failed(e))?;
        found.into_iter().map(|row| row.decode().map_err(|what| self.damaged(what))).collect()
    }

    /// The evaluations of one candidate, in order of their ends.
    pub fn evaluations_of(&self, id: &CandidateId) -> Result<Vec<EvaluationRecord>, EngineError> {
        let state = self.settled()?;
        let found = rows::evaluations_of(&state.connection, id).map_err(|e| self.failed(e))?;
        found.into_iter().map(|row| row.decode().map_err(|what| self.damaged(what))).collect()
    }

    /// The event with this number.
    pub fn event(&self, seq: u64) -> Result<Option<Event>, EngineError> {
        let state = self.settled()?;
        let text: Option<String> = state
            .connection
            .prepare_cached("SELECT event FROM ledger WHERE seq = ?1")
            .and_then(|mut select| select.query_row([seq as i64], |row| row.get(0)).optional())
            .map_err(|e| self.failed(e))?;
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|e| EngineError::LedgerBroken { seq, what: e.to_string() })
        };
        text.map(parse).transpose()
    }
}
