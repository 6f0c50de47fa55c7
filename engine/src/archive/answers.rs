//! Answers of proposers that cannot be asked twice: models, agents, people.
//!
//! A call is noted before it is made, with the most that it may spend, and
//! its answer is on disk before anybody acts on it. So `resume` makes the same
//! proposals, and a call that was under way when the process died counts
//! against the budget in full.

use super::Archive;
use crate::candidate::Cost;
use crate::error::EngineError;
use rusqlite::{OptionalExtension as _, params};

/// Which call: each is made once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Generation of the proposal.
    pub generation: u32,
    /// Its place in the generation.
    pub place: u32,
    /// Who is asked.
    pub proposer: String,
}

/// What is known of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was begun, and nobody knows how it ended.
    UnderWay,
    /// Its answer, as text.
    Given(String),
}

impl Archive {
    /// Notes that a call begins which may spend at most `most`. On disk when
    /// this returns.
    pub fn begin_call(&self, place: &Place, most: &Cost) -> Result<(), EngineError> {
        let state = self.settled()?;
        state
            .connection
            .prepare_cached("INSERT OR REPLACE INTO answers VALUES (?1, ?2, ?3, NULL, ?4)")
            .and_then(|mut insert| {
                insert.execute(params![place.generation, place.place, place.proposer, json(most)])
            })
            .map(drop)
            .map_err(|e| self.failed(e))
    }

    /// Records an answer and what it spent. On disk when this returns.
    pub fn end_call(&self, place: &Place, answer: &str, spent: &Cost) -> Result<(), EngineError> {
        let state = self.settled()?;
        state
            .connection
            .prepare_cached("INSERT OR REPLACE INTO answers VALUES (?1, ?2, ?3, ?4, ?5)")
            .and_then(|mut insert| {
                insert.execute(params![place.generation, place.place, place.proposer, answer, json(spent)])
            })
            .map(drop)
            .map_err(|e| self.failed(e))
    }

    /// What is known of this call.
    pub fn answer(&self, place: &Place) -> Result<Option<Answer>, EngineError> {
        let state = self.state();
        state
            .connection
            .prepare_cached(
                "SELECT answer FROM answers WHERE generation = ?1 AND place = ?2 AND proposer = ?3",
            )
            .and_then(|mut select| {
                select
                    .query_row(params![place.generation, place.place, place.proposer], |row| {
                        row.get::<_, Option<String>>(0)
                    })
                    .optional()
            })
            .map(|row| row.map(|answer| answer.map_or(Answer::UnderWay, Answer::Given)))
            .map_err(|e| self.failed(e))
    }

    /// What all calls of a proposer spent, those under way in full.
    pub fn spent(&self, proposer: &str) -> Result<Cost, EngineError> {
        let state = self.settled()?;
        let rows: Vec<String> = state
            .connection
            .prepare_cached("SELECT spent FROM answers WHERE proposer = ?1")
            .and_then(|mut select| select.query_map([proposer], |row| row.get(0))?.collect())
            .map_err(|e| self.failed(e))?;
        let mut sum = Cost::default();
        for text in rows {
            sum += serde_json::from_str(&text).map_err(|e| self.damaged(format!("cost of a call: {e}")))?;
        }
        Ok(sum)
    }

    /// All answers that were given, in order.
    pub fn answers(&self) -> Result<Vec<(Place, String)>, EngineError> {
        let state = self.settled()?;
        state
            .connection
            .prepare(
                "SELECT generation, place, proposer, answer FROM answers WHERE answer IS NOT NULL
                 ORDER BY generation, place, proposer",
            )
            .and_then(|mut select| {
                select
                    .query_map([], |row| {
                        let place =
                            Place { generation: row.get(0)?, place: row.get(1)?, proposer: row.get(2)? };
                        Ok((place, row.get(3)?))
                    })?
                    .collect()
            })
            .map_err(|e| self.failed(e))
    }
}

fn json(cost: &Cost) -> String {
    // Four whole numbers always serialise.
    serde_json::to_string(cost).unwrap_or_default()
}
