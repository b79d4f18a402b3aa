//! What the node tells its owner, owned: the frame that it came from is gone by then.

use super::hosting::Delivery;
use super::players::Place;
use super::report::Report;
use crate::bus::message::{AnswerStatus, Content, MessageId, Outcome, PresenceKind};
use std::collections::VecDeque;
use std::sync::Arc;

/// One thing that the owner has to do or may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// Open a fresh connection, then call `handle_connected`.
    Connect,
    /// Close the connection, if it is still open.
    Close {
        /// Why.
        why: String,
    },
    /// Welcomed.
    Up {
        /// The hub's epoch.
        hub_epoch: u32,
    },
    /// The link is lost; the next try comes by itself.
    Down {
        /// Why.
        why: String,
    },
    /// The hub refuses this node for good: `ErrorCode` as a number.
    Refused {
        /// The code.
        code: u16,
        /// The hub's words.
        text: String,
    },
    /// The final receipt of a unicast.
    Receipt {
        /// The message.
        seq: u64,
        /// What became of it.
        outcome: Outcome,
        /// Why.
        detail: String,
    },
    /// No receipt will come, nobody knows: the link was lost behind a message of `latest` or `droppable`, or one that
    /// went out before can't be said to the older hub that is there now.
    Unknown {
        /// The message.
        seq: u64,
        /// Which of the two.
        why: &'static str,
    },
    /// The final report of a group send or broadcast.
    Report {
        /// The message.
        seq: u64,
        /// Recipient by recipient.
        report: Report,
    },
    /// A message for a hosted player. With [`POLICY_SEQ`](crate::bus::message::POLICY_SEQ) in its seq it is of
    /// `latest` or `droppable`: there is no ack for it, and no cursor may be moved to it.
    Message {
        /// The player.
        player: Arc<str>,
        /// Its id.
        id: MessageId,
        /// How to read the payload.
        content: Content,
        /// Every hop of it is recorded.
        traced: bool,
        /// The payload, shared by all its recipients here.
        payload: Arc<[u8]>,
    },
    /// The same message for several hosted players. `Node::poll_event` gives one `Message` for each of them instead.
    Messages {
        /// Who, in the order of their numbers; each at most once.
        to: Vec<Place>,
        /// The message.
        delivery: Arc<Delivery>,
    },
    /// The player is hosted here now, by a login that this node asked for.
    Bound {
        /// The player.
        player: String,
        /// Its login.
        login: u64,
    },
    /// The player is hosted here no more, by the hub's word.
    Dropped {
        /// The player.
        player: String,
        /// Why.
        why: String,
    },
    /// A logout is committed: the client may forget its session.
    LoggedOut {
        /// The player.
        player: String,
    },
    /// Marks of this sender up to this id may be forgotten by the client.
    Forget {
        /// The player.
        player: String,
        /// Up to here.
        up_to: MessageId,
    },
    /// Presence: a snapshot or changes.
    Presence {
        /// Begins anew.
        snapshot: bool,
        /// (what, name, node).
        entries: Vec<(PresenceKind, String, String)>,
    },
    /// A request for a service of this node.
    Call {
        /// Ours; for `reply`.
        call: u64,
        /// The calling node.
        from: String,
        /// What is left of the caller's time.
        deadline_ms: u32,
        /// The service.
        service: String,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Nobody waits for the reply any more.
    CallCancelled {
        /// Ours.
        call: u64,
    },
    /// The answer to a request or query.
    Answer {
        /// The request.
        call: u64,
        /// How it ended.
        status: AnswerStatus,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: Vec<u8>,
    },
    /// The answer to a join or leave.
    Joined {
        /// The request.
        request: u64,
        /// Whether it holds.
        ok: bool,
        /// Why not.
        detail: String,
    },
}

/// Events in order. Its bound is what arrives in one turn: the owner takes all of them after each.
pub type Events = VecDeque<NodeEvent>;
