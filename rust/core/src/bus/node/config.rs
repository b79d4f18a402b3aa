//! Who the node is, what it counts, why it refuses.

use crate::error::WireError;

/// Who the node is.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its epoch: max(stored + 1, unix ms) [4a].
    pub epoch: u64,
    /// Numbers its connections from here on; the wall clock in ms, so that a repeat of an epoch goes on above.
    pub connection: u64,
    /// Services that it serves.
    pub roles: Vec<String>,
    /// Seq of its first message: 1, or that of a message that is repeated.
    pub next_seq: u64,
}

/// Why a call of the owner was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeError {
    /// A name or size is over its limit.
    Wire(WireError),
    /// A window or queue is full: later.
    Full,
    /// The seq of a repeat is below what this epoch has sent.
    SeqUsed,
    /// Options that don't go together: deliver-at is for one player and must-deliver, a key for `latest`, quiet for
    /// what need not arrive.
    Options,
    /// The node is closed, or refused for good.
    Ended,
}

impl From<WireError> for NodeError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// Counters of a node, all since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Welcomes.
    pub links: u64,
    /// Frames read.
    pub frames_in: u64,
    /// Messages read.
    pub messages_in: u64,
    /// Frames written.
    pub frames_out: u64,
    /// Messages taken from the owner.
    pub sends: u64,
    /// Final receipts and reports.
    pub receipts: u64,
    /// Connections closed because of what the hub sent.
    pub violations: u64,
}
