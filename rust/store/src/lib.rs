//! The mailbox in SQLite (BUS.md sections 5 and 11), with a log of batches before it.
//!
//! A batch is confirmed when its record in the log is synced: one write and one sync, whatever it touches. The same
//! operations go into one long SQLite transaction, which is committed when the log is long or nobody waits; that commit
//! names a new salt, and with it every record in the log is void. A start runs the log's records again. Operations are
//! deterministic (time is in the record, refusals are not recorded), so row numbers come out the same.
//!
//! `journal` and `record` are public for the fuzz targets alone.
//!
//! SQLite: one connection, exclusive, WAL. u64 numbers are kept less 2^63, so that their order is that of i64.

mod admin;
mod batch;
mod database;
pub mod journal;
mod limits;
mod memory;
pub mod record;
mod schema;
mod store;

pub use store::{Options, Store};

use std::sync::{Arc, Mutex, PoisonError};

/// Why a batch was not carried out, or the store not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing may be confirmed; it may work later.
    Unavailable(String),
    /// Another hub has claimed the store.
    Replaced(String),
    /// What was confirmed can't be read.
    Damaged {
        /// What is known.
        reason: String,
        /// What to do.
        hint: String,
    },
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

type Hook = dyn FnMut(&str) -> Result<(), String> + Send;

/// Called before each statement and each step of the log; an error is one of the disk. For tests that stop the process
/// or break the disk in between.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<Mutex<Hook>>>);

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Steps({})", self.0.is_some())
    }
}

impl Steps {
    /// Calls this before each step.
    pub fn new(hook: impl FnMut(&str) -> Result<(), String> + Send + 'static) -> Self {
        Self(Some(Arc::new(Mutex::new(hook))))
    }

    const fn watched(&self) -> bool {
        self.0.is_some()
    }

    fn reach(&self, step: &str) -> Result<(), Failure> {
        self.0.as_ref().map_or(Ok(()), |hook| {
            let mut hook = hook.lock().unwrap_or_else(PoisonError::into_inner);
            hook(step).map_err(Failure::Unavailable)
        })
    }
}
