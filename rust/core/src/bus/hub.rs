//! The hub: who hosts whom, what waits for whom, what was promised to whom. No socket, no clock.
//!
//! In: `handle_*`. Out: `poll_out` (frames to write, connections to close) and `poll_store` (a batch
//! for the mailbox). This file only dispatches. A message's way:
//!
//! | step | file |
//! |---|---|
//! | bytes of a link become messages; hello, heartbeats, bye | `link`, `session` |
//! | a send enters the line of each recipient | `send`, `fan` |
//! | `latest` and `droppable` | `policy` |
//! | the line: queue, sent, rows of the mailbox; live or not | `line`, `flow`, `reading`, `cursor` |
//! | login, register, logout, takeover; who stays away | `login`, `idle` |
//! | the store's operations and their completions | `mailbox`, `completion` |
//! | deadlines, deferred messages, expiry | `clock` |
//! | outcomes to the sender, bytes to the link | `receipts`, `outbound` |
//! | groups, presence, requests, queries | `group`, `presence`, `call`, `query` |
//! | what observers see: counts, latencies, hops | `observe`, `histogram`, `trace` |

mod call;
mod clock;
mod completion;
mod config;
mod counters;
mod cursor;
mod directory;
mod fan;
mod flow;
mod group;
mod histogram;
mod idle;
mod json;
mod line;
mod link;
mod login;
mod mailbox;
mod observe;
mod outbound;
mod policy;
mod presence;
mod query;
mod reading;
mod receipts;
mod send;
mod session;
#[cfg(test)]
mod tests;
/// Hops and sums of messages.
pub mod trace;

pub use config::{Allowed, CloseReason, Conn, HubConfig, HubOut, Peer};
pub use counters::Counters;
pub use mailbox::StoreMismatch;
pub use observe::Sum;

use crate::bus::broken::{Broken, Rule};
use crate::bus::codec::decode;
use crate::bus::message::{ErrorCode, Message, Policy, Send};
use crate::bus::store::{StoreBatch, StoreDone, StoreError, StoreOp};
use crate::limits::MAX_FRAME_BYTES;
use call::Calls;
use clock::Clock;
use directory::{Directory, Groups, NONE};
use fan::Fan;
use idle::Idle;
use mailbox::{Mailbox, Purpose};
use observe::Observed;
use policy::KeptLatest;
use session::{Links, Sessions};
use std::collections::{BTreeSet, VecDeque};

/// The hub's state machine.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    started_ms: u64,
    now: u64,
    links: Links,
    sessions: Sessions,
    players: Directory,
    groups: Groups,
    mailbox: Mailbox,
    calls: Calls,
    counters: Counters,
    observed: Observed,
    /// Links with something to take, each once.
    ready: VecDeque<u32>,
    outs: VecDeque<HubOut>,
    /// The last counter of logins and bindings in this epoch.
    last_counter: u32,
    /// Until nodes are back after the start: sends to players without host wait in memory.
    hold: bool,
    /// Keys of nodes that the roster calls linked and that have not registered yet.
    awaited: BTreeSet<u64>,
    /// Sessions that want presence.
    subscribers: BTreeSet<u32>,
    /// Reads of mailboxes under way.
    reads: usize,
    /// Players whose first read waits until there are fewer.
    unread: VecDeque<u32>,
    /// Players whose cursor is full, waiting for a `forget`.
    crowded: VecDeque<u32>,
    next_tick: u64,
    clock: Clock,
    kept: KeptLatest,
    idle: Idle,
    fan: Fan,
    /// It ends soon: nothing new is taken.
    stopping: bool,
    exited: bool,
    broken: Broken,
}

impl Hub {
    /// A hub that holds; its first store operation claims the store.
    #[must_use]
    pub fn new(config: HubConfig, now_ms: u64) -> Self {
        let mut mailbox = Mailbox::default();
        mailbox.push(
            StoreOp::Open {
                hub_epoch: config.hub_epoch,
                unix_ms: config.unix_ms,
            },
            Purpose::Open,
        );
        Self {
            started_ms: now_ms,
            now: now_ms,
            links: Links::default(),
            sessions: Sessions::default(),
            players: Directory::new(config.hash_seed),
            groups: Groups::default(),
            mailbox,
            calls: Calls::default(),
            counters: Counters::default(),
            observed: Observed::default(),
            ready: VecDeque::new(),
            outs: VecDeque::new(),
            last_counter: 0,
            hold: true,
            awaited: BTreeSet::new(),
            subscribers: BTreeSet::new(),
            reads: 0,
            unread: VecDeque::new(),
            crowded: VecDeque::new(),
            next_tick: now_ms + tick_ms(&config),
            clock: Clock::new(now_ms, config.unix_ms, config.expire_every_ms),
            kept: KeptLatest::default(),
            idle: Idle::default(),
            fan: Fan::default(),
            stopping: false,
            exited: false,
            broken: Broken::NONE,
            config,
        }
    }

    /// Takes a rule away.
    #[cfg(feature = "broken")]
    pub const fn break_rule(&mut self, broken: Broken) {
        self.broken = broken;
        self.mailbox.broken = broken;
    }

    /// A connection was made; its transport has authenticated it.
    pub fn handle_connected(&mut self, now_ms: u64, conn: Conn, peer: Peer) {
        self.now = now_ms;
        self.counters.connected += 1;
        if self.exited
            || self.links.len() >= self.config.max_links
            || !self.links.add(now_ms, conn, peer)
        {
            let text = "limit of connections reached".to_string();
            self.outs.push_back(HubOut::Close {
                conn,
                why: CloseReason {
                    code: Some(ErrorCode::Limit),
                    text,
                },
            });
        }
    }

    /// Bytes of a frame that is not whole yet came: a slow link is no dead one. The driver says so of every
    /// [`LIFE_BYTES`](crate::limits::LIFE_BYTES).
    pub fn handle_progress(&mut self, now_ms: u64, conn: Conn) {
        self.now = now_ms;
        if let Some(link) = self.links.find(conn).and_then(|at| self.links.get_mut(at)) {
            link.heard_ms = now_ms;
        }
    }

    /// A frame came: one batch of messages.
    pub fn handle_frame(&mut self, now_ms: u64, conn: Conn, frame: &[u8]) {
        self.now = now_ms;
        let Some(at) = self.links.find(conn) else {
            return;
        };
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        if link.closing.is_some() || self.exited {
            return; // Replaced or refused: what it still sends is not read [4].
        }
        link.heard_ms = now_ms;
        self.counters.frames_in += 1;
        self.counters.bytes_in += frame.len() as u64;
        if frame.len() > MAX_FRAME_BYTES {
            self.malformed(
                at,
                &format!(
                    "frame: {} bytes, the limit is {MAX_FRAME_BYTES}",
                    frame.len()
                ),
            );
            return;
        }
        if frame.is_empty() && link.session == NONE {
            self.malformed(at, "the first message is not hello");
            return;
        }
        let messages = self.observed.kinds_in.count(frame);
        if let Some(link) = self.links.get_mut(at) {
            link.traffic.messages_in += messages;
            link.traffic.bytes_in += frame.len() as u64;
        }
        for message in decode(frame) {
            self.counters.messages_in += 1;
            match message {
                Ok(message) => self.message(at, message),
                Err(error) => self.malformed(at, &error.to_string()),
            }
            if self
                .links
                .get(at)
                .is_none_or(|link| link.conn != conn || link.closing.is_some())
            {
                break;
            }
        }
    }

    fn message(&mut self, link: u32, message: Message<'_>) {
        let session = self.links.get(link).map_or(NONE, |link| link.session);
        if session == NONE {
            match message {
                Message::Hello(hello) => self.hello(link, &hello),
                _ => self.malformed(link, "the first message is not hello"),
            }
            return;
        }
        if self.stopping && is_new_work(&message) {
            return; // Not taken, as if it had not been read: the node brings it to the next hub.
        }
        match message {
            Message::Ack { acks } => acks.iter().for_each(|ack| self.ack(session, ack)),
            Message::Send(send) if !self.speaks(link, &send) => {
                self.malformed(link, "what version 2 has, on a link of version 1");
            }
            Message::Send(send)
                if send.policy != Policy::MustDeliver && self.version(link) >= 2 =>
            {
                self.send_policy(session, link, &send);
            }
            Message::Send(send) => self.send(session, &send),
            Message::Login { claims } => {
                claims.iter().for_each(|claim| self.login(session, &claim))
            }
            Message::Register { claims, last } => self.register(session, claims, last),
            Message::Logout {
                player,
                login,
                cursor,
            } => self.logout(session, player, login, cursor),
            Message::Join {
                request,
                durable,
                members,
            } => self.join(session, request, durable, members),
            Message::Leave {
                request,
                durable,
                members,
            } => self.leave(session, request, durable, members),
            Message::Subscribe { topics } => self.subscribe(session, topics),
            Message::Ping { nonce, low } => self.ping(session, link, nonce, low),
            Message::Pong { low, .. } => self.raise_low(session, low),
            Message::Bye { low } => self.bye(session, link, low),
            Message::Request {
                call,
                deadline_ms,
                service,
                content,
                payload,
            } => {
                self.request(session, call, deadline_ms, service, content, payload);
            }
            Message::Reply {
                call,
                ok,
                content,
                payload,
            } => self.reply(session, call, ok, content, payload),
            Message::Cancel { call } => self.cancel(session, call),
            Message::Query {
                call,
                what,
                argument,
            } => self.query(session, call, what, argument),
            Message::Seen { deliveries } if self.version(link) >= 2 => {
                deliveries.iter().for_each(|seen| self.seen(session, seen));
            }
            Message::Hello(_) => self.malformed(link, "a second hello"),
            _ => self.malformed(link, "a message that only the hub sends"),
        }
    }

    fn version(&self, link: u32) -> u16 {
        self.links.get(link).map_or(0, |link| link.version)
    }

    /// Whether a send has only what the version of its link knows.
    fn speaks(&self, link: u32, send: &Send<'_>) -> bool {
        let new = send.deliver_at_ms != 0 || send.quiet || send.trace;
        !new || self.version(link) >= 2
    }

    /// The hub is to end: what it took is confirmed as far as it goes, nothing new is taken.
    pub const fn handle_stop(&mut self) {
        self.stopping = true;
    }

    /// Nothing more will be confirmed: every node is told that the hub stops.
    pub fn say_stop(&mut self, now_ms: u64) {
        self.now = now_ms;
        self.stopping = true;
        for at in 0..self.links.end() {
            self.close_link(at, ErrorCode::Stopping, STOPS);
        }
    }

    /// A connection is gone.
    pub fn handle_disconnected(&mut self, now_ms: u64, conn: Conn) {
        self.now = now_ms;
        let Some(at) = self.links.find(conn) else {
            return;
        };
        let Some(link) = self.links.remove(at) else {
            return;
        };
        if link.session != NONE && link.closing.is_none() {
            self.link_lost(link.session);
        }
    }

    /// The driver's buffer of a connection is over or under its mark: over, no frame is given for it.
    pub fn set_writable(&mut self, conn: Conn, writable: bool) {
        let Some(at) = self.links.find(conn) else {
            return;
        };
        if let Some(link) = self.links.get_mut(at) {
            link.writable = writable;
            self.make_ready(at);
        }
    }

    /// The completion of the batch under way.
    ///
    /// # Errors
    /// `Batch` if it is not the one under way, `Length` if results are missing: nothing is changed then.
    pub fn handle_store(
        &mut self,
        now_ms: u64,
        batch: u64,
        result: Result<Vec<StoreDone>, StoreError>,
    ) -> Result<(), StoreMismatch> {
        self.now = now_ms;
        match result {
            Err(error) => {
                self.mailbox.fail(now_ms, batch, error.reason)?;
                self.due_unknown();
                self.counters.store_failures += 1;
            }
            Ok(done) => {
                let all = self.mailbox.complete(batch, done.len())?;
                self.counters.store_batches += 1;
                self.counters.store_ops += done.len() as u64;
                self.withdraw_behind(&all, &done);
                for ((op, purpose), done) in all.into_iter().zip(done) {
                    self.store_done(&op, purpose, done);
                }
            }
        }
        Ok(())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.now = now_ms;
        self.expire_calls();
        self.mailbox.wake(now_ms);
        if self.hold && now_ms >= self.started_ms + self.config.hub_grace_ms {
            self.end_hold();
        }
        self.check_due();
        if self.broken.lacks(Rule::GroupInOneStep) {
            self.send_all_held();
        }
        if now_ms >= self.next_tick {
            self.next_tick = now_ms + tick_ms(&self.config);
            self.check_deadlines();
            self.check_kept();
            self.check_idle();
            self.check_expire();
            self.check_links();
            self.check_sessions();
            self.check_crowded();
        }
    }

    /// When `handle_timeout` is to be called, and `poll_store` asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.exited {
            return None;
        }
        let hold = self
            .hold
            .then_some(self.started_ms + self.config.hub_grace_ms);
        let deferred = self.clock.due_at().filter(|_| self.mailbox.opened);
        let calls = self.calls.next_deadline();
        let due = [hold, calls, self.mailbox.retry_at, deferred];
        due.into_iter().flatten().chain([self.next_tick]).min()
    }

    /// What the driver is to do next. Links take turns; a frame has all that waits for one, up to a frame.
    pub fn poll_out(&mut self) -> Option<HubOut> {
        loop {
            if let Some(out) = self.outs.pop_front() {
                return Some(out);
            }
            let at = self.ready.pop_front()?;
            if let Some(out) = self.take_from(at) {
                return Some(out);
            }
        }
    }

    /// The next batch for the store, once the one before is completed.
    pub fn poll_store(&mut self, max_ops: usize) -> Option<StoreBatch> {
        if self.exited {
            return None;
        }
        self.mailbox
            .poll(self.now, max_ops, self.config.batch_bytes)
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends the hub: another one has taken over [41].
    fn exit(&mut self, why: String) {
        if !self.exited {
            self.exited = true;
            self.outs.push_back(HubOut::Exit { why });
        }
    }

    /// A login or binding counter that was never used in this epoch.
    fn next_counter(&mut self) -> u32 {
        if self.last_counter == u32::MAX {
            self.exit(
                "the counter of logins and bindings is used up; a new start has a new hub epoch"
                    .into(),
            );
            return self.last_counter;
        }
        self.last_counter += 1;
        self.last_counter
    }

    /// A counter of this epoch as it goes on the wire [12].
    fn in_epoch(&self, counter: u32) -> u64 {
        if self.broken.lacks(Rule::EpochInLogin) {
            return u64::from(counter);
        }
        u64::from(self.config.hub_epoch) << 32 | u64::from(counter)
    }
}

const STOPS: &str = "the hub stops";

/// Whether a message asks for something that a hub which stops does not begin.
const fn is_new_work(message: &Message<'_>) -> bool {
    !matches!(
        message,
        Message::Ack { .. }
            | Message::Seen { .. }
            | Message::Ping { .. }
            | Message::Pong { .. }
            | Message::Reply { .. }
            | Message::Cancel { .. }
            | Message::Query { .. }
            | Message::Bye { .. }
    )
}

/// How often silent links and expired graces are looked for: late by a quarter of a heartbeat at most.
fn tick_ms(config: &HubConfig) -> u64 {
    (config.heartbeat_ms / 4).max(1)
}
