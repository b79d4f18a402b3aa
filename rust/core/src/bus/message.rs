//! The messages of the bus as values: what PROTOCOL.md writes as bytes.
//!
//! Borrowed from the frame that was read, so that decoding copies nothing. Kinds 0x01 to 0x3f go from
//! a node to the hub, 0x41 to 0x7f from the hub to a node.

use crate::bus::wire::List;

/// The highest protocol version that this build speaks.
pub const VERSION: u16 = 2;
/// The lowest: one release back.
pub const VERSION_MIN: u16 = 1;
/// Set in the seq of `latest` and `droppable` messages: they have a counter of their own.
pub const POLICY_SEQ: u64 = 1 << 63;

/// What a side of version 2 can do: `hello.features`, `welcome.features`.
pub mod features {
    /// Policies `latest` and `droppable`.
    pub const POLICIES: u64 = 1;
    /// Deadlines.
    pub const DEADLINES: u64 = 1 << 1;
    /// `send_later`.
    pub const DEFERRED: u64 = 1 << 2;
    /// `seen`, and the outcome `passed`.
    pub const SEEN: u64 = 1 << 3;
    /// The flag *trace*.
    pub const TRACE: u64 = 1 << 4;
    /// All of version 2.
    pub const ALL: u64 = POLICIES | DEADLINES | DEFERRED | SEEN | TRACE;
}

/// Stable hash of a node's name: FNV-1a, 64 bits, over its UTF-8 bytes. Two names with one key are refused at hello.
#[must_use]
pub const fn node_key(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

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
pub type Mark = MessageId;

/// What happens to a message that can't be delivered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Policy {
    /// Acked, resent, stored while the player is offline.
    #[default]
    MustDeliver = 0,
    /// The newest of a key replaces the older ones.
    Latest = 1,
    /// Dropped and counted when it can't go out now.
    Droppable = 2,
}

/// How a payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Content {
    /// Bytes.
    #[default]
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
    /// `latest` or `droppable`: not live, replaced, or no room.
    Dropped = 7,
    /// In the report of a group send that was sent again: its mark is past this message. It was handled before, or the
    /// recipient joined after the message was first sent. From version 2 on.
    Passed = 8,
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

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AnswerStatus {
    /// The handler's reply.
    Ok = 0,
    /// The handler failed; the payload says how.
    Failed = 1,
    /// No node serves that.
    NoSuchService = 2,
    /// The node that had it is gone: it may have run or not.
    Unknown = 3,
    /// The deadline passed: it may have run or not.
    Deadline = 4,
    /// The caller cancelled it.
    Cancelled = 5,
}

/// What a presence event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PresenceKind {
    /// A node said hello.
    NodeUp = 1,
    /// A node said bye, or its grace is over.
    NodeDown = 2,
    /// A player is hosted, or by another node than before.
    Login = 3,
    /// A player is hosted by none.
    Logout = 4,
}

/// Why the hub closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// Bytes that are no messages, or no hello first.
    Malformed = 1,
    /// No common protocol version.
    Version = 2,
    /// A newer process of that name has been here: stop.
    OldEpoch = 3,
    /// Another connection of that node took over.
    Replaced = 4,
    /// Another name has the same node key, or the key does not belong to the name.
    NameTaken = 5,
    /// The key of the connection may not use this name or role.
    NotAllowed = 6,
    /// A limit of the hub: too many nodes, players, groups.
    Limit = 7,
    /// The node knows of a later hub: this one stops.
    OldHub = 8,
    /// Nothing was heard for too long.
    Silent = 9,
    /// The hub stops; another start of it follows.
    Stopping = 10,
}

/// First message of a node on each connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hello<'a> {
    /// Lowest protocol version that the node speaks.
    pub version_min: u16,
    /// Highest.
    pub version_max: u16,
    /// `node_key(name)`.
    pub node_key: u64,
    /// The node's epoch.
    pub epoch: u64,
    /// Counts the node's connections in this epoch: an older one that arrives late is refused.
    pub connection: u64,
    /// The highest hub epoch that the node has seen, 0 for none.
    pub highest_hub_epoch: u32,
    /// Its smallest seq without final receipt, else the next one.
    pub low: u64,
    /// What the node can do, of [`features`].
    pub features: u64,
    /// The node's name.
    pub name: &'a str,
    /// Services that it serves.
    pub roles: List<'a, &'a str>,
}

/// To whom a `send`, `send_group` or `broadcast` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// One player: kind `send`.
    Player(&'a str),
    /// The members of a group: kind `send_group`.
    Group(&'a str),
    /// Those online now: kind `broadcast`.
    Broadcast(Scope),
}

/// A message of a sender: kinds `send`, `send_group`, `broadcast`, `send_later`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send<'a> {
    /// The sender's sequence number.
    pub seq: u64,
    /// Its smallest seq without final receipt.
    pub low: u64,
    /// Unix ms after which it is not delivered; 0 none.
    pub deadline_ms: u64,
    /// Unix ms before which it is not delivered; 0: now. Another makes it a `send_later`: to one player, must-deliver.
    pub deliver_at_ms: u64,
    /// What happens when it can't go out.
    pub policy: Policy,
    /// Sent before, perhaps.
    pub resend: bool,
    /// No receipt is wanted: `latest` and `droppable` only.
    pub quiet: bool,
    /// Every hop of it is recorded.
    pub trace: bool,
    /// How to read the payload.
    pub content: Content,
    /// To whom.
    pub target: Target<'a>,
    /// What a `latest` replaces; else empty.
    pub key: &'a str,
    /// The payload.
    pub payload: &'a [u8],
}

/// An ack of all numbers of a binding up to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The binding.
    pub binding: u64,
    /// Handled up to this number.
    pub up_to: u32,
}

/// A player in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// The group.
    pub group: &'a str,
    /// The player.
    pub player: &'a str,
}

/// A range of slots and the hub that owns it. With one hub: 0 to 16,383.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRange<'a> {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
    /// The hub's name.
    pub hub: &'a str,
}

/// The hub's answer to hello.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Welcome<'a> {
    /// The protocol version of this connection.
    pub version: u16,
    /// The hub's epoch. A node refuses one below the highest it has seen.
    pub hub_epoch: u32,
    /// Send something at least this often.
    pub heartbeat_ms: u32,
    /// The other side is dead after this long without a byte.
    pub dead_ms: u32,
    /// Upper end of the random wait that is added from the second loss within a minute on.
    pub spread_ms: u32,
    /// Bytes of the largest payload.
    pub max_payload: u32,
    /// Messages that a sender may have without receipt.
    pub window_messages: u32,
    /// Their bytes.
    pub window_bytes: u32,
    /// What the hub can do, of [`features`]; from version 2 on, else 0.
    pub features: u64,
    /// Which hub owns what.
    pub slots: List<'a, SlotRange<'a>>,
}

/// The receipt of one `send`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// The sender's seq.
    pub seq: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, for people; often empty.
    pub detail: &'a str,
}

/// One recipient in a group report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportEntry<'a> {
    /// The recipient.
    pub player: &'a str,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, for people; often empty.
    pub detail: &'a str,
}

/// A (part of a) report about a group send or broadcast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupReport<'a> {
    /// The sender's seq.
    pub seq: u64,
    /// Whether every recipient has its outcome.
    pub last: bool,
    /// Eight counts, for a link of version 2; else seven, and no `passed`.
    pub wide: bool,
    /// Recipients by outcome: index is the outcome less 1.
    pub counts: [u32; 8],
    /// Recipients that are counted but not named.
    pub omitted: u32,
    /// Those that are named.
    pub entries: List<'a, ReportEntry<'a>>,
}

/// The answer to one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<'a> {
    /// The player.
    pub player: &'a str,
    /// Its login: hub epoch in the high 32 bits.
    pub login: u64,
    /// The binding: names the player in `deliver` and `ack`.
    pub binding: u64,
    /// The request that this answers.
    pub request: u64,
}

/// Where a `deliver` goes on that node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// The binding.
    pub binding: u64,
    /// The message's number in it.
    pub number: u32,
}

/// A message for players of this node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deliver<'a> {
    /// Its id.
    pub id: MessageId,
    /// Its policy. Another than must-deliver has the number 0 everywhere: it is not acked and moves no cursor.
    pub policy: Policy,
    /// Every hop of it is recorded.
    pub trace: bool,
    /// How to read the payload.
    pub content: Content,
    /// For whom.
    pub targets: List<'a, Number>,
    /// The payload.
    pub payload: &'a [u8],
}

/// One presence event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence<'a> {
    /// What happened.
    pub event: PresenceKind,
    /// The node or player.
    pub name: &'a str,
    /// The node.
    pub node: &'a str,
}

/// One message of the bus. Kinds and bytes: PROTOCOL.md.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Message<'a> {
    /// 0x01.
    Hello(Hello<'a>),
    /// 0x02 `send`, 0x03 `send_group`, 0x04 `broadcast`, 0x13 `send_later`.
    Send(Send<'a>),
    /// 0x05.
    Request {
        /// Chosen by the caller; unique on its connections.
        call: u64,
        /// Relative; 0 for the hub's default.
        deadline_ms: u32,
        /// The service.
        service: &'a str,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: &'a [u8],
    },
    /// 0x06: the handler's answer to a `call`.
    Reply {
        /// The hub's number of the call.
        call: u64,
        /// False: the handler failed, the payload says how.
        ok: bool,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: &'a [u8],
    },
    /// 0x07: the caller does not want its answer any more.
    Cancel {
        /// The caller's number.
        call: u64,
    },
    /// 0x08.
    Login {
        /// Players to log in; each with login 0.
        claims: List<'a, Claim<'a>>,
    },
    /// 0x09.
    Register {
        /// Players that the node hosts, with their logins.
        claims: List<'a, Claim<'a>>,
        /// The registration is complete, joins included.
        last: bool,
    },
    /// 0x0a.
    Logout {
        /// The player.
        player: &'a str,
        /// The login that ends.
        login: u64,
        /// What its client has handled.
        cursor: List<'a, Mark>,
    },
    /// 0x0b.
    Ack {
        /// Each binding at most once.
        acks: List<'a, Ack>,
    },
    /// 0x0c.
    Join {
        /// Answered by `joined` with this number; 0: no answer wanted.
        request: u64,
        /// Kept in the store, outlives logout.
        durable: bool,
        /// Who joins what.
        members: List<'a, Member<'a>>,
    },
    /// 0x0d.
    Leave {
        /// Answered by `joined` with this number; 0: no answer wanted.
        request: u64,
        /// The durable membership.
        durable: bool,
        /// Who leaves what.
        members: List<'a, Member<'a>>,
    },
    /// 0x0e.
    Subscribe {
        /// Bit 0: presence.
        topics: u8,
    },
    /// 0x0f, both ways.
    Ping {
        /// Comes back in the pong.
        nonce: u64,
        /// The node's low; 0 from the hub.
        low: u64,
    },
    /// 0x10, both ways.
    Pong {
        /// The ping's.
        nonce: u64,
        /// The node's low; 0 from the hub.
        low: u64,
    },
    /// 0x11: the node ends.
    Bye {
        /// Its next seq.
        low: u64,
    },
    /// 0x12: answered by `answer` with JSON.
    Query {
        /// Chosen by the caller, in one space with its requests.
        call: u64,
        /// What to show.
        what: u8,
        /// 3 (players): `LIMIT PREFIX`, both optional.
        argument: &'a str,
    },
    /// 0x14: deliveries that were dropped because the cursor is past them; ahead of the ack that covers them.
    Seen {
        /// Binding and number.
        deliveries: List<'a, Number>,
    },
    /// 0x41.
    Welcome(Welcome<'a>),
    /// 0x42.
    Receipt {
        /// In the order of the outcomes.
        receipts: List<'a, Receipt<'a>>,
    },
    /// 0x43.
    GroupReport(GroupReport<'a>),
    /// 0x44.
    Bound {
        /// Answers to claims.
        bound: List<'a, Bound<'a>>,
    },
    /// 0x45.
    Deliver(Deliver<'a>),
    /// 0x46.
    LogoutDone {
        /// The player.
        player: &'a str,
        /// The login that ended.
        login: u64,
    },
    /// 0x47: the node does not host the player under this login any more.
    Drop {
        /// The player.
        player: &'a str,
        /// The login that lost.
        login: u64,
        /// Why.
        why: &'a str,
    },
    /// 0x48: a mark of the cursor may go.
    Forget {
        /// The player.
        player: &'a str,
        /// Its binding.
        binding: u64,
        /// The mark goes if it is at or below this.
        up_to: Mark,
    },
    /// 0x49.
    Presence {
        /// Part of what there is, not a change. An empty one ends the snapshot.
        snapshot: bool,
        /// In order.
        events: List<'a, Presence<'a>>,
    },
    /// 0x4a: a request for a service of this node.
    Call {
        /// The hub's number.
        call: u64,
        /// What is left of the time.
        deadline_ms: u32,
        /// The calling node.
        from: &'a str,
        /// The service.
        service: &'a str,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: &'a [u8],
    },
    /// 0x4b: to a `request` or `query`.
    Answer {
        /// The caller's number.
        call: u64,
        /// How it ended.
        status: AnswerStatus,
        /// How to read the payload.
        content: Content,
        /// The payload.
        payload: &'a [u8],
    },
    /// 0x4c: nobody waits for the answer to this call any more.
    Cancelled {
        /// The hub's number.
        call: u64,
    },
    /// 0x4d: the hub closes the connection.
    Error {
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        text: &'a str,
    },
    /// 0x4e: to a `join` or `leave` with a request number; durable ones after the commit.
    Joined {
        /// The request.
        request: u64,
        /// Whether it holds.
        ok: bool,
        /// Why not.
        detail: &'a str,
    },
}
