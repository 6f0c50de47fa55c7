//! The tables, and the version that they carry.

use crate::error::EngineError;
use rusqlite::Connection;
use std::path::Path;

/// The format of `terrarium.db`, in SQLite's `user_version`.
pub const VERSION: i64 = 3;

/// "TERR" in SQLite's `application_id`.
const APPLICATION: i64 = 0x5445_5252;

const TABLES: &str = "
CREATE TABLE candidates (
    number        INTEGER PRIMARY KEY,      -- order of proposal
    id            TEXT NOT NULL UNIQUE,
    source        TEXT NOT NULL,            -- blob
    knobs         TEXT NOT NULL,            -- JSON
    parent        TEXT,
    second_parent TEXT,
    proposer      TEXT NOT NULL,
    operator      TEXT NOT NULL,
    note          TEXT NOT NULL,
    call          TEXT,                     -- JSON: model, prompt (blob), cost
    generation    INTEGER NOT NULL
) STRICT;
CREATE TABLE evaluations (
    candidate        TEXT NOT NULL,
    split            TEXT NOT NULL,         -- selection | final
    seed             INTEGER NOT NULL,
    code             TEXT NOT NULL,         -- of the outcome
    outcome          TEXT NOT NULL,         -- JSON
    score            REAL,
    usage            TEXT NOT NULL,         -- JSON
    knobs            TEXT NOT NULL,         -- JSON, as declared
    metrics          TEXT NOT NULL,         -- JSON: [name, step, value | text]
    log              TEXT NOT NULL,
    -- From here on nothing is deterministic.
    build            TEXT,                  -- JSON
    timing           TEXT NOT NULL,         -- JSON
    finished_unix_ms INTEGER NOT NULL,
    -- Rows lie in the order of their ends; sorted by this key, which is random,
    -- each would dirty a page of its own, the more of them the larger the run.
    UNIQUE (candidate, split, seed)
) STRICT;
CREATE TABLE answers (                      -- of proposers that cannot be asked twice
    generation INTEGER NOT NULL,
    place      INTEGER NOT NULL,
    proposer   TEXT NOT NULL,
    answer     TEXT,                        -- JSON; none while it is under way
    spent      TEXT NOT NULL,               -- JSON; while under way, the most that it may spend
    PRIMARY KEY (generation, place, proposer)
) STRICT, WITHOUT ROWID;
CREATE TABLE ledger (
    seq   INTEGER PRIMARY KEY,
    kind  TEXT NOT NULL,
    event TEXT NOT NULL,                    -- canonical JSON
    hash  TEXT NOT NULL
) STRICT;
";

/// Sets up a connection; creates the tables in an empty database when
/// `writable`; refuses other versions.
pub fn prepare(connection: &mut Connection, path: &Path, writable: bool) -> Result<(), EngineError> {
    let failed = |e| EngineError::database(path, e);
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(failed)?;
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let empty = version == 0 && application == 0 && tables == 0;
    if !empty && application != APPLICATION {
        let what = "it is a database of another program".to_owned();
        return Err(EngineError::DamagedArchive { path: path.to_path_buf(), what });
    }
    if (!empty && version != VERSION) || (empty && !writable) {
        return Err(EngineError::OtherVersion {
            path: path.to_path_buf(),
            found: version,
            expected: VERSION,
        });
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // Its indices are of random names, so that any page of them can be next: they
    // stay in memory (KiB), and a page that changed often is written back once.
    connection.pragma_update(None, "cache_size", -(64 << 10)).map_err(failed)?;
    connection.pragma_update(None, "wal_autocheckpoint", 8_000).map_err(failed)?;
    if empty {
        let create = |connection: &mut Connection| -> rusqlite::Result<()> {
            // Tables and version appear together or not at all.
            let transaction = connection.transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            transaction.commit()
        };
        create(connection).map_err(failed)?;
    }
    Ok(())
}
