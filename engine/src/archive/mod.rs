//! The archive: candidates, evaluations and the ledger, in SQLite.
//!
//! One file, `terrarium.db`, in write-ahead mode with full synchronisation:
//! what is on disk survives `kill -9` and a loss of power. A synchronised
//! commit costs milliseconds, so what comes in quick succession is committed
//! together: [`Archive::append`] and [`Archive::record`] say whether
//! everything so far is on disk, and [`Archive::flush`] sees to it. Nothing is
//! acknowledged to anybody before that. Losing the tail costs nothing but the
//! work: `resume` computes it again.
//!
//! Candidates are written in one transaction with the ledger event that names
//! them, events in one with the evaluations that they speak of. Evaluations
//! hold their deterministic fields and, in columns of their own, what depends
//! on the machine and the day.

mod answers;
mod read;
mod rows;
mod schema;
mod since;

pub use answers::{Answer, Place};
pub use read::{BestPoint, OutcomeCount, Totals};
pub use since::{Mark, News};

use crate::candidate::Candidate;
use crate::error::EngineError;
use crate::evaluate::{EvaluationKey, EvaluationRecord};
use crate::ledger::{Event, GENESIS, LedgerEntry, chain_hash, first_break};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Commits are at least this far apart, unless they are asked for.
const COMMIT_INTERVAL: Duration = Duration::from_millis(50);

/// So much waits for a commit at most.
const MOST_PENDING: usize = 8192;

/// The archive of one run.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    /// Events that an earlier process recorded, to be met again.
    recorded: Vec<LedgerEntry>,
    /// How many events this process has computed.
    position: u64,
    /// Hash of the last event computed.
    head: String,
    /// What is not on disk yet, in the order in which it came.
    pending: Vec<Pending>,
    committed: Instant,
}

/// One row that waits for a commit.
#[derive(Debug)]
enum Pending {
    Event(&'static str, LedgerEntry),
    Candidate(Box<Candidate>),
    Evaluation(Arc<EvaluationRecord>),
}

impl State {
    fn write(&mut self) -> rusqlite::Result<()> {
        // What cannot be written is lost, and was never acknowledged: the run
        // ends here, and what is on disk can still be read.
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        for row in &pending {
            match row {
                Pending::Event(kind, entry) => {
                    transaction
                        .prepare_cached(
                            "INSERT INTO ledger (seq, kind, event, hash) VALUES (?1, ?2, ?3, ?4)",
                        )?
                        .execute(params![entry.seq as i64, kind, entry.text, entry.hash])?;
                }
                Pending::Candidate(candidate) => rows::insert_candidate(&transaction, candidate)?,
                Pending::Evaluation(record) => rows::insert_evaluation(&transaction, record)?,
            }
        }
        transaction.commit()?;
        self.committed = Instant::now();
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.pending.len() >= MOST_PENDING || self.committed.elapsed() >= COMMIT_INTERVAL
    }
}

impl Archive {
    /// Opens the database at `path`, creating it if it is not there or empty.
    /// The ledger's chain is checked.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::open_with(path, flags, true)
    }

    /// Opens an existing database to read it, also while a run writes to it.
    pub fn open_read_only(path: &Path) -> Result<Self, EngineError> {
        if !path.is_file() {
            return Err(EngineError::NotARun { path: path.parent().unwrap_or(path).to_path_buf() });
        }
        // Not SQLITE_OPEN_READ_ONLY: a reader of a write-ahead log has to
        // create its shared index if the writer was killed.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::open_with(path, flags, false)
    }

    fn open_with(path: &Path, flags: OpenFlags, writable: bool) -> Result<Self, EngineError> {
        let failed = |e| EngineError::database(path, e);
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        schema::prepare(&mut connection, path, writable)?;
        let archive = Self {
            path: path.to_path_buf(),
            state: Mutex::new(State {
                connection,
                recorded: Vec::new(),
                position: 0,
                head: GENESIS.to_owned(),
                pending: Vec::new(),
                committed: Instant::now(),
            }),
        };
        if writable {
            archive.rewind()?;
        }
        Ok(archive)
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left no half-done transaction behind: they
        // are rolled back when dropped.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: rusqlite::Error) -> EngineError {
        EngineError::database(&self.path, error)
    }

    fn damaged(&self, what: String) -> EngineError {
        EngineError::DamagedArchive { path: self.path.clone(), what }
    }

    /// The state, with everything on disk.
    fn settled(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let mut state = self.state();
        state.write().map_err(|e| self.failed(e))?;
        Ok(state)
    }

    /// Writes what is still pending. When this returns, it is on disk.
    pub fn flush(&self) -> Result<(), EngineError> {
        self.settled().map(drop)
    }

    /// Records events, and the candidates among them. Events that an earlier
    /// process recorded at these positions must be equal to these; they are
    /// not written again. Tells whether everything so far is on disk.
    pub fn append(&self, events: &[Event]) -> Result<bool, EngineError> {
        let mut state = self.state();
        let mut position = state.position;
        let mut head = state.head.clone();
        let mut fresh = Vec::new();
        for event in events {
            let text = event.text();
            if let Some(entry) = usize::try_from(position).ok().and_then(|at| state.recorded.get(at)) {
                if entry.text != text {
                    return Err(EngineError::LedgerMismatch {
                        seq: position,
                        recorded: entry.text.clone(),
                        recomputed: text,
                    });
                }
                head.clone_from(&entry.hash);
            } else {
                let hash = chain_hash(&head, position, &text);
                head.clone_from(&hash);
                fresh.push(Pending::Event(event.kind(), LedgerEntry { seq: position, text, hash }));
                if let Event::Proposed { candidate, .. } = event {
                    fresh.push(Pending::Candidate(Box::new(candidate.clone())));
                }
            }
            position += 1;
        }
        state.pending.append(&mut fresh);
        state.position = position;
        state.head = head;
        self.commit_if_due(state)
    }

    /// Goes back to the first event, to compute all of them again.
    pub fn rewind(&self) -> Result<(), EngineError> {
        let recorded = self.ledger()?;
        if let Some((seq, what)) = first_break(&recorded) {
            return Err(EngineError::LedgerBroken { seq, what });
        }
        let mut state = self.state();
        state.recorded = recorded;
        state.position = 0;
        GENESIS.clone_into(&mut state.head);
        Ok(())
    }

    /// The event that an earlier process recorded next, if there is one.
    pub fn next_recorded(&self) -> Result<Option<Event>, EngineError> {
        let state = self.state();
        let Some(entry) = usize::try_from(state.position).ok().and_then(|at| state.recorded.get(at)) else {
            return Ok(None);
        };
        serde_json::from_str(&entry.text)
            .map(Some)
            .map_err(|e| EngineError::LedgerBroken { seq: entry.seq, what: e.to_string() })
    }

    /// Number and hash of the events that this process has computed.
    pub fn head(&self) -> (u64, String) {
        let state = self.state();
        (state.position, state.head.clone())
    }

    /// Records a finished evaluation. Tells whether everything so far is on
    /// disk: then no later process will do it again.
    pub fn record(&self, record: Arc<EvaluationRecord>) -> Result<bool, EngineError> {
        let mut state = self.state();
        state.pending.push(Pending::Evaluation(record));
        self.commit_if_due(state)
    }

    fn commit_if_due(&self, mut state: MutexGuard<'_, State>) -> Result<bool, EngineError> {
        if state.is_due() {
            state.write().map_err(|e| self.failed(e))?;
        }
        Ok(state.pending.is_empty())
    }

    /// A recorded evaluation, if there is one.
    pub fn evaluation(&self, key: &EvaluationKey) -> Result<Option<EvaluationRecord>, EngineError> {
        let state = self.state();
        let sql = format!(
            "SELECT {} FROM evaluations WHERE candidate = ?1 AND split = ?2 AND seed = ?3",
            rows::EVALUATION
        );
        let row = state
            .connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                statement
                    .query_row(
                        params![key.candidate.as_str(), key.split.name(), key.seed as i64],
                        rows::EvaluationRow::read,
                    )
                    .optional()
            })
            .map_err(|e| self.failed(e))?;
        row.map(|row| row.decode().map_err(|what| self.damaged(what))).transpose()
    }

    /// All events, in order. The chain is not checked here.
    pub fn ledger(&self) -> Result<Vec<LedgerEntry>, EngineError> {
        let state = self.settled()?;
        let read = |connection: &Connection| -> rusqlite::Result<Vec<LedgerEntry>> {
            connection
                .prepare("SELECT seq, event, hash FROM ledger ORDER BY seq")?
                .query_map([], |row| {
                    Ok(LedgerEntry {
                        seq: row.get::<_, i64>(0)? as u64,
                        text: row.get(1)?,
                        hash: row.get(2)?,
                    })
                })?
                .collect()
        };
        read(&state.connection).map_err(|e| self.failed(e))
    }

    /// All candidates, in the order in which they were proposed.
    pub fn candidates(&self) -> Result<Vec<Candidate>, EngineError> {
        let state = self.settled()?;
        let found = rows::all_candidates(&state.connection).map_err(|e| self.failed(e))?;
        found.into_iter().map(|row| row.decode().map_err(|what| self.damaged(what))).collect()
    }

    /// All evaluations: by candidate in order of proposal, split and seed.
    pub fn evaluations(&self) -> Result<Vec<EvaluationRecord>, EngineError> {
        let state = self.settled()?;
        let found = rows::all_evaluations(&state.connection).map_err(|e| self.failed(e))?;
        found.into_iter().map(|row| row.decode().map_err(|what| self.damaged(what))).collect()
    }

    /// How many evaluations are recorded.
    pub fn evaluation_count(&self) -> Result<u64, EngineError> {
        let count = self
            .settled()?
            .connection
            .query_row("SELECT count(*) FROM evaluations", [], |row| row.get::<_, i64>(0));
        count.map(|count| count as u64).map_err(|e| self.failed(e))
    }

    /// Limits the database to this many pages of 4 KiB, so that a test can
    /// fill the disk.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        let state = self.state();
        state.connection.pragma_update(None, "max_page_count", pages).unwrap();
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Whoever had to know has flushed; this only saves work.
        let _ = self.state().write();
    }
}

#[cfg(test)]
mod tests;
