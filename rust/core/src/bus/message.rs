//! The messages of the bus as values: what PROTOCOL.md writes as bytes.
//!
//! Borrowed from the frame that was read, so that decoding copies nothing. Kinds 0x01 to 0x3f go from
//! a node to the hub, 0x41 to 0x7f from the hub to a node.

/// A message's id: unique for ever, ordered per node key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Stable hash of the sender's name.
    pub node_key: u64,
    /// The sender's epoch: grows at each of its starts.
    pub epoch: u64,
    /// The sender's sequence number.
    pub seq: u64,
}

/// One entry of a cursor: the last handled id of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The sender.
    pub node_key: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its sequence number.
    pub seq: u64,
}

/// What happens to a message that can't be delivered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// Acked, resent, stored while the player is offline.
    MustDeliver = 0,
    /// The newest of a key replaces the older ones.
    Latest = 1,
    /// Dropped and counted when it can't go out now.
    Droppable = 2,
}

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// Bytes.
    Bytes = 0,
    /// UTF-8 text.
    Text = 1,
    /// JSON.
    Json = 2,
}

/// What became of a message for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// The client handled it (a service without clients: its handler returned).
    Delivered = 1,
    /// The mailbox committed it, or the mark that it was handled.
    Stored = 2,
    /// Its deadline passed before it went out.
    Expired = 3,
    /// Final: unknown player, quota, limit, not allowed, not supported.
    Refused = 4,
    /// Not final: send it again later, and every later one to that player.
    Busy = 5,
    /// `latest` or `droppable`: went out on a live link.
    Sent = 6,
    /// `droppable`: not live, or no room.
    Dropped = 7,
}

/// To whom a broadcast goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// Every online player whose name does not begin with `node:`.
    Players = 0,
    /// Every node that hosts its own address `node:NAME`.
    Nodes = 1,
}

/// A player and its login request, in `login` and `register`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The player.
    pub player: &'a str,
    /// The login it holds; 0 in a `login`.
    pub login: u64,
    /// Chosen by the node; only the answer to its last request counts.
    pub request: u64,
}
