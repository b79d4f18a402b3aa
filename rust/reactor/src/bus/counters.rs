//! What happened on the bus's sockets, in numbers and in lines.

use std::collections::{BTreeMap, VecDeque};

use super::limits::MAX_LOG_LINES;

/// Counts since the start; the names of the two maps are short and few, they come from the code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections taken.
    pub accepted: u64,
    /// Handshakes that were finished.
    pub established: u64,
    /// Bytes read.
    pub in_bytes: u64,
    /// Bytes written.
    pub out_bytes: u64,
    /// Messages read.
    pub in_frames: u64,
    /// Messages queued for writing.
    pub out_frames: u64,
    /// Times that waiting for sockets ended.
    pub turns: u64,
    /// Links that ended, by the reason's kind.
    pub closed: BTreeMap<&'static str, u64>,
    /// Log lines that nobody fetched in time.
    pub log_dropped: u64,
}

/// One line for the log of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// A short name: `closed`, `accept`.
    pub event: &'static str,
    /// The reason's kind.
    pub kind: &'static str,
    /// Where the connection came from; empty if it is about none.
    pub address: String,
    /// The reason in words.
    pub text: String,
}

/// Lines that wait to be fetched, bounded.
#[derive(Debug, Default)]
pub struct Log(VecDeque<LogLine>);

impl Log {
    /// Adds a line; false if there is no room.
    pub fn push(&mut self, line: LogLine) -> bool {
        if self.0.len() >= MAX_LOG_LINES {
            return false;
        }
        self.0.push_back(line);
        true
    }

    /// Everything that waits.
    pub fn take(&mut self) -> Vec<LogLine> {
        self.0.drain(..).collect()
    }
}
