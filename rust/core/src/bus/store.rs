//! What the hub asks of the mailbox store, and what the store answers.
//!
//! The operations of a [`StoreBatch`] run in order, in one transaction (or by the steps of the
//! document store); the completion comes after the commit. One batch is under way at a time.

use crate::bus::message::{Content, Mark, MessageId, node_key};
use std::fmt;
use std::sync::Arc;

/// The sender of deferred messages once they are due [37]: no node may have this name.
pub const DEFERRED_NAME: &str = "deferred";
/// Its key.
pub const DEFERRED_KEY: u64 = node_key(DEFERRED_NAME);
/// Its only epoch.
pub const DEFERRED_EPOCH: u64 = 1;

/// One operation. Players and groups are named, so that a store needs no table of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOp {
    /// Claims the store for this hub: first operation of all. Answered by `Opened`.
    Open {
        /// This hub's epoch.
        hub_epoch: u32,
        /// Wall clock, to tell which nodes of the roster are retired.
        unix_ms: u64,
    },
    /// Inserts a row, unless `id` is at or below `accepted` of its sender [20]. Answered by `Appended`, also
    /// when nothing was inserted, or by `Passed`; refused with `UnknownPlayer` if no `Know` of the player was committed,
    /// or, a first transmission only [35], with `Full` or `OverQuota`. A refusal holds for the rest of the batch: what follows of that
    /// sender to that player, in the same list, and is no repeat, gets the same answer, or else a later one would be accepted before it.
    Append {
        /// The mailbox.
        player: Arc<str>,
        /// The message.
        id: MessageId,
        /// Unix ms after which it is not delivered; 0 none.
        deadline_ms: u64,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: Arc<[u8]>,
        /// It was not sent before, and was not in memory before: the quota counts.
        first: bool,
    },
    /// Puts a message on the list of those that are delivered later [37], unless `id` is at or below the list's own
    /// mark of its sender to that player; raises that mark. Answered and refused as `Append`.
    Defer {
        /// The mailbox.
        player: Arc<str>,
        /// The message.
        id: MessageId,
        /// Unix ms from which it is to be delivered.
        deliver_at_ms: u64,
        /// Unix ms after which it is not delivered; 0 none.
        deadline_ms: u64,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: Arc<[u8]>,
        /// It was not sent before: the quota counts.
        first: bool,
    },
    /// Moves deferred messages that are due, oldest first, into the mailboxes: each a new row under the id
    /// ([`DEFERRED_KEY`], 1, seq of the list), whose seq is durable and grows in the order of promotion. Answered by
    /// `Due`.
    Due {
        /// Wall clock.
        unix_ms: u64,
        /// At most so many.
        limit: u32,
    },
    /// Deletes rows and deferred messages whose deadline is past. Answered by `Expired`.
    Expire {
        /// Wall clock; 0 deletes nothing.
        unix_ms: u64,
        /// At most so many.
        limit: u32,
    },
    /// What an operator asks; JSON that the store understands. Answered by `Text`.
    Admin {
        /// The question.
        json: String,
    },
    /// The oldest rows after a row. Answered by `Rows`.
    Read {
        /// The mailbox.
        player: Arc<str>,
        /// Rows above this one; 0 from the start.
        after_row: u64,
        /// At most so many.
        limit: u32,
    },
    /// The last accepted id of each sender. Answered by `Marks`.
    Accepted {
        /// The mailbox.
        player: Arc<str>,
    },
    /// Deletes handled rows. May be repeated. Answered by `Done`.
    Settle {
        /// The mailbox.
        player: Arc<str>,
        /// Rows up to and with this one.
        up_to: u64,
    },
    /// `accepted = max(accepted, cursor)`, and rows at or below the cursor deleted [31]. Answered by `Done`.
    Logout {
        /// The mailbox.
        player: Arc<str>,
        /// What the session handled.
        cursor: Vec<Mark>,
    },
    /// Deletes the `accepted` mark of a sender, and the mark of the deferred list, where at or below this id [24].
    /// Answered by `Done`.
    Trim {
        /// The mailbox.
        player: Arc<str>,
        /// The sender's key.
        sender: u64,
        /// Its epoch.
        epoch: u64,
        /// Its seq.
        seq: u64,
    },
    /// The player exists from now on [4c]. Answered by `Done`.
    Know {
        /// The player.
        player: Arc<str>,
    },
    /// A membership that outlives logout. Answered by `Done`, or `UnknownPlayer`.
    Join {
        /// The group.
        group: Arc<str>,
        /// The player.
        player: Arc<str>,
    },
    /// Ends a membership. Answered by `Done`.
    Leave {
        /// The group.
        group: Arc<str>,
        /// The player.
        player: Arc<str>,
    },
    /// Writes what is known of a node [4b]: inserted or replaced by key. Answered by `Done`.
    Roster {
        /// The entry.
        entry: RosterEntry,
    },
}

/// A node as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterEntry {
    /// Its key.
    pub node_key: u64,
    /// Its name.
    pub name: Arc<str>,
    /// Its highest epoch.
    pub epoch: u64,
    /// Whether it was linked: said hello, and neither bye nor the end of its grace came since.
    pub linked: bool,
}

/// A message in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Grows; never reused [22].
    pub row: u64,
    /// The message.
    pub id: MessageId,
    /// Unix ms after which it is not delivered; 0 none.
    pub deadline_ms: u64,
    /// How to read the payload.
    pub content: Content,
    /// The payload.
    pub payload: Arc<[u8]>,
}

/// A deferred message that became a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The mailbox.
    pub player: Arc<str>,
    /// The message, as its sender knows it.
    pub id: MessageId,
    /// Its seq of the deferred list: the row's id is ([`DEFERRED_KEY`], [`DEFERRED_EPOCH`], this).
    pub seq: u64,
}

impl Moved {
    /// The id of the row.
    #[must_use]
    pub const fn row_id(&self) -> MessageId {
        MessageId {
            node_key: DEFERRED_KEY,
            epoch: DEFERRED_EPOCH,
            seq: self.seq,
        }
    }
}

/// The result of one operation, in the order of the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreDone {
    /// `Open`.
    Opened {
        /// The highest epoch that any hub has claimed, this one included. Above ours: we exit.
        hub_epoch_highest: u32,
        /// Every node that is not retired.
        roster: Vec<RosterEntry>,
        /// Every durable membership: group, player.
        groups: Vec<(Arc<str>, Arc<str>)>,
        /// When the first deferred message is due, unix ms; 0 none.
        next_due_ms: u64,
    },
    /// `Append`: in the mailbox, or known as accepted.
    Appended,
    /// `Append`: known as accepted, and no row has this id: it was handled, or never meant for this mailbox (a group
    /// send that is sent again is expanded again). A store that can't tell answers `Appended`.
    Passed,
    /// `Append`, `Join`: no login of that name was ever committed.
    UnknownPlayer,
    /// `Append`, `Defer`: the store is at its byte limit.
    Full,
    /// `Append`, `Defer`: the mailbox is at a limit of its player [35]; what it has now, deferred ones included.
    OverQuota {
        /// Messages.
        messages: u64,
        /// Bytes of payload.
        bytes: u64,
    },
    /// `Due`.
    Due {
        /// What became a row, in that order.
        moved: Vec<Moved>,
        /// When the next one is due, unix ms; 0 none.
        next_ms: u64,
    },
    /// `Expire`.
    Expired {
        /// How many went.
        count: u64,
        /// Some marks of the deferred list, player and last id, at most as many as the limit: others each time, and all
        /// of them over time. The hub trims those whose sender is done with them [24].
        marks: Vec<(Arc<str>, Mark)>,
    },
    /// `Admin`.
    Text {
        /// The answer.
        json: String,
    },
    /// `Read`.
    Rows {
        /// In order.
        rows: Vec<Row>,
        /// No row is behind these.
        end: bool,
    },
    /// `Accepted`.
    Marks {
        /// One per sender.
        marks: Vec<Mark>,
    },
    /// All others.
    Done,
}

/// Operations for one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreBatch {
    /// Names the batch in the completion.
    pub number: u64,
    /// In order.
    pub ops: Vec<StoreOp>,
}

/// A batch of which nothing may be confirmed: not committed, or nobody knows. It is issued again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// For the log and the status.
    pub reason: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store: {}", self.reason)
    }
}

impl std::error::Error for StoreError {}
