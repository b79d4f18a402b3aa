//! SQLite's side: statements, the open transaction, and what is held back from it.

use crate::limits::{
    CACHE_KIB, CHECKPOINT_KEEP_BYTES, CHECKPOINT_PAGES, INSERT_ROWS, PENDING_BYTES, PENDING_ROWS,
    STATEMENTS,
};
use crate::memory::{Dirty, List, Memory};
use crate::schema::{FORMAT, SCHEMA, signed};
use crate::{Failure, Steps};
use rusqlite::{CachedStatement, Connection, OpenFlags, OptionalExtension, Params};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use zmqgame_core::bus::message::{Content, MessageId};
use zmqgame_core::bus::store::StoreDone;

/// A row that was accepted and is not in SQLite yet.
#[derive(Debug)]
pub struct Pending {
    pub player: Arc<str>,
    pub id: MessageId,
    pub deadline_ms: u64,
    pub content: Content,
    pub payload: Arc<[u8]>,
}

// After an error all of the transaction is given up: so a statement keeps no copies of the pages that it changes, which it would
// write to a file to be able to undo itself.
const INSERT: &str = "insert or fail into rows (player, node_key, epoch, seq, deadline_ms, content, payload) values ";
const ROW: &str = "(?, ?, ?, ?, ?, ?, ?)";
const COLUMNS: usize = 7;

static INSERT_ONE: LazyLock<String> = LazyLock::new(|| format!("{INSERT}{ROW}"));
static INSERT_MANY: LazyLock<String> =
    LazyLock::new(|| format!("{INSERT}{}", [ROW; INSERT_ROWS].join(", ")));

/// A connection with its open transaction.
pub struct Database {
    connection: Connection,
    steps: Steps,
    begun: bool,
    /// Something was changed since the last commit.
    pub changed: bool,
    /// What all messages take, by the measure of `max_bytes`.
    pub bytes: i64,
    pub memory: Memory,
    /// Refusals of the batch: what follows of the sender to the player is refused as well.
    pub refused: HashMap<(List, Arc<str>, u64), StoreDone>,
    pending: Vec<Pending>,
    pending_bytes: usize,
}

impl Database {
    pub fn open(path: &Path, synchronous: &str, steps: Steps) -> Result<Self, Failure> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        steps.reach("open")?;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(std::time::Duration::ZERO)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "locking_mode", "exclusive")?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            let reason = "the file system does not allow a write-ahead log";
            return Err(Failure::Unavailable(reason.into()));
        }
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", CHECKPOINT_KEEP_BYTES)?;
        let mut database = Self {
            connection,
            steps,
            begun: false,
            changed: false,
            bytes: 0,
            memory: Memory::default(),
            refused: HashMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
        };
        database.begin()?;
        database.steps.reach("schema")?;
        database.connection.execute_batch(SCHEMA)?;
        let format = database.meta("format")?;
        if format > FORMAT {
            return Err(Failure::Unavailable(format!(
                "its format is {format}, this version knows up to {FORMAT}: it was written by a newer one"
            )));
        }
        database.set_meta("format", FORMAT)?;
        database.bytes = database.meta("bytes")?;
        Ok(database)
    }

    pub fn begin(&mut self) -> Result<(), Failure> {
        if !self.begun {
            self.execute("begin immediate", [])?;
            self.begun = true;
        }
        Ok(())
    }

    /// All that was done is in the file, and synced if that was asked for; the log's records with another salt are void.
    pub fn commit(&mut self, salt: u64) -> Result<(), Failure> {
        self.begin()?;
        self.write_all()?;
        self.set_meta("bytes", self.bytes)?;
        self.set_meta("log", salt.cast_signed())?;
        self.execute("commit", [])?;
        (self.begun, self.changed) = (false, false);
        Ok(())
    }

    /// Gives memory back that a busy time has taken.
    pub fn shrink(&mut self) -> Result<(), Failure> {
        self.connection.execute_batch("pragma shrink_memory")?;
        Ok(())
    }

    // --- statements ---------------------------------------------------------------------------

    pub fn statement(&self, sql: &str) -> Result<CachedStatement<'_>, Failure> {
        self.steps.reach(sql)?;
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// Runs it; how many rows it changed.
    pub fn execute(&self, sql: &str, values: impl Params) -> Result<usize, Failure> {
        Ok(self.statement(sql)?.execute(values)?)
    }

    pub fn exists(&self, sql: &str, values: impl Params) -> Result<bool, Failure> {
        Ok(self.statement(sql)?.exists(values)?)
    }

    pub fn meta(&self, name: &str) -> Result<i64, Failure> {
        let mut statement = self.statement("select value from meta where name = ?")?;
        let value = statement.query_row([name], |row| row.get(0)).optional()?;
        Ok(value.unwrap_or(0))
    }

    pub fn set_meta(&self, name: &str, value: i64) -> Result<(), Failure> {
        self.execute("update meta set value = ? where name = ?", (value, name))?;
        Ok(())
    }

    // --- what is held back -----------------------------------------------------------------------

    pub fn hold(&mut self, row: Pending) -> Result<(), Failure> {
        self.pending_bytes += row.payload.len();
        self.pending.push(row);
        if self.pending.len() >= PENDING_ROWS || self.pending_bytes >= PENDING_BYTES {
            self.write_rows()?;
        }
        Ok(())
    }

    /// Rows in the order in which they were accepted: so they get the same numbers when the log is run again.
    pub fn write_rows(&mut self) -> Result<(), Failure> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        for rows in pending.chunks(INSERT_ROWS) {
            if rows.len() == INSERT_ROWS {
                self.insert(&INSERT_MANY, rows)?;
            } else {
                for row in rows.chunks(1) {
                    self.insert(&INSERT_ONE, row)?;
                }
            }
        }
        let mut pending = pending;
        pending.clear();
        self.pending = pending;
        Ok(())
    }

    fn insert(&self, sql: &str, rows: &[Pending]) -> Result<(), Failure> {
        let mut statement = self.statement(sql)?;
        for (index, row) in rows.iter().enumerate() {
            let at = index * COLUMNS;
            statement.raw_bind_parameter(at + 1, &*row.player)?;
            statement.raw_bind_parameter(at + 2, signed(row.id.node_key))?;
            statement.raw_bind_parameter(at + 3, signed(row.id.epoch))?;
            statement.raw_bind_parameter(at + 4, signed(row.id.seq))?;
            statement.raw_bind_parameter(at + 5, signed(row.deadline_ms))?;
            statement.raw_bind_parameter(at + 6, row.content as u8)?;
            statement.raw_bind_parameter(at + 7, &*row.payload)?;
        }
        statement.raw_execute()?;
        Ok(())
    }

    /// Marks into their tables.
    pub fn write_marks(&self, marks: &[Dirty]) -> Result<(), Failure> {
        for (list, player, sender, (epoch, seq)) in marks {
            let sql = match list {
                List::Rows => {
                    "insert into accepted values (?, ?, ?, ?) on conflict (player, node_key)
                     do update set epoch = excluded.epoch, seq = excluded.seq"
                }
                List::Deferred => {
                    "insert into deferred_marks values (?, ?, ?, ?) on conflict (player, node_key)
                     do update set epoch = excluded.epoch, seq = excluded.seq"
                }
            };
            self.execute(
                sql,
                (&**player, signed(*sender), signed(*epoch), signed(*seq)),
            )?;
        }
        Ok(())
    }

    /// The tables have all that was accepted.
    pub fn write_all(&mut self) -> Result<(), Failure> {
        self.write_rows()?;
        let marks = self.memory.take_dirty();
        self.write_marks(&marks)
    }

    /// The tables have this player's marks, and nothing is remembered of them.
    pub fn settle_marks(&mut self, player: &Arc<str>) -> Result<(), Failure> {
        let marks = self.memory.take_marks(player);
        self.write_marks(&marks)
    }

    pub fn end(self) -> Result<(), Failure> {
        self.connection.close().map_err(|(_, error)| error.into())
    }
}
