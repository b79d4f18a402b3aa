//! The node's side of the bus, without socket, clock or chance: one sender, its hosted players, its calls.
//!
//! The owner calls `handle_timeout` when `poll_timeout` says so, obeys the events that `poll_event` gives
//! (`Connect` first of all), writes what `poll_frame` gives and hands in what it reads. Rules in brackets: BUS.md.

/// Who it is, what it counts, what it refuses.
pub mod config;
/// What a session has handled.
pub mod cursor;
/// What the owner is told.
pub mod event;
/// Hosted players.
pub mod hosting;
/// Bounds and times.
pub mod limits;
/// Connect, heartbeats, retries.
pub mod link;
/// Messages that need not arrive.
pub mod loose;
/// Group memberships.
pub mod members;
/// What waits for the socket.
pub mod output;
/// Hosted players by name and slot.
mod players;
/// Outcomes of group sends.
pub mod report;
/// Requests and calls.
pub mod requests;
/// The window of unreceipted messages.
pub mod sender;
/// Messages by seq.
mod window;

#[cfg(test)]
mod tests;

use crate::bus::codec::decode;
use crate::bus::message::{
    Content, ErrorCode, Hello, Message, MessageId, Outcome, Policy, Presence, VERSION, VERSION_MIN,
    Welcome, features, node_key,
};
use crate::bus::wire::{List, check_name};
use crate::error::WireError;
use crate::limits::{MAX_NAME_BYTES, MAX_PAYLOAD_BYTES, MAX_ROLES};
pub use config::{Counters, NodeConfig, NodeError};
use cursor::Cursor;
use event::NodeEvent;
use hosting::{Attached, Delivery, Hosting};
use limits::{REQUEST_MS, WRITE_BYTES};
use link::{Link, State};
use loose::LooseEnd;
use members::Members;
use output::Output;
pub use players::Place;
use requests::Requests;
use sender::{Final, Recipient, SendError, SendOptions, Sender};
use std::sync::Arc;

/// The state machine.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    key: u64,
    link: Link,
    out: Output,
    sender: Sender,
    hosting: Hosting,
    members: Members,
    requests: Requests,
    highest_hub_epoch: u32,
    topics: u8,
    max_payload: usize,
    /// The version of the last hub, and what it knows of it.
    hub: (u16, u64),
    counters: Counters,
    shown: Shown,
}

/// A message for several players on its way to the owner, one by one.
#[derive(Debug, Default)]
struct Shown {
    to: std::vec::IntoIter<Place>,
    delivery: Option<Arc<Delivery>>,
}

impl Shown {
    fn new(to: Vec<Place>, delivery: Arc<Delivery>) -> Self {
        Self {
            to: to.into_iter(),
            delivery: Some(delivery),
        }
    }

    fn is_empty(&self) -> bool {
        self.to.len() == 0
    }

    fn next(&mut self, hosting: &Hosting) -> Option<NodeEvent> {
        let delivery = self.delivery.as_ref()?;
        let mut here = self.to.by_ref().filter_map(|place| hosting.name_at(place));
        let one = here.next().map(|player| delivery.event(player));
        if one.is_none() {
            self.delivery = None;
        }
        one
    }
}

impl Node {
    /// A node that connects at its first `handle_timeout`.
    ///
    /// # Errors
    /// A bad name or role.
    pub fn new(config: NodeConfig, now_ms: u64) -> Result<Self, WireError> {
        check_name("node name", &config.name)?;
        for role in &config.roles {
            check_name("role", role)?;
        }
        if config.roles.len() > MAX_ROLES {
            return Err(WireError::over(
                "roles",
                config.roles.len() as u64,
                MAX_ROLES as u64,
            ));
        }
        Ok(Self {
            key: node_key(&config.name),
            link: Link::new(now_ms, config.connection),
            out: Output::default(),
            sender: Sender::new(config.next_seq.max(1)),
            hosting: Hosting::new(config.epoch ^ config.connection.rotate_left(32)),
            members: Members::default(),
            requests: Requests::default(),
            highest_hub_epoch: 0,
            topics: 0,
            max_payload: MAX_PAYLOAD_BYTES,
            hub: (0, 0),
            counters: Counters::default(),
            shown: Shown::default(),
            config,
        })
    }

    /// The stable hash of its name.
    #[must_use]
    pub const fn key(&self) -> u64 {
        self.key
    }

    /// Whether it is welcomed.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// The version that is spoken on the link and the features of the hub, while it is there.
    #[must_use]
    pub fn hub(&self) -> Option<(u16, u64)> {
        self.is_up().then_some(self.hub)
    }

    /// Whether something has to be told.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.out.events.is_empty() || !self.shown.is_empty()
    }

    /// Messages without final receipt.
    #[must_use]
    pub fn unreceipted(&self) -> usize {
        self.sender.len()
    }

    /// What it has counted.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a rule away.
    #[cfg(feature = "broken")]
    pub const fn break_rule(&mut self, broken: crate::bus::broken::Broken) {
        self.sender.broken = broken;
        self.hosting.broken = broken;
    }

    // --- out -----------------------------------------------------------------------------------------------------

    /// The next event, in order; a message for several players comes as one for each of them.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        loop {
            match self.shown.next(&self.hosting) {
                None => {}
                one => return one,
            }
            match self.poll_events()? {
                NodeEvent::Messages { to, delivery } => self.shown = Shown::new(to, delivery),
                other => return Some(other),
            }
        }
    }

    /// The same, with `Messages` as they are. An owner asks in one way or in the other.
    pub fn poll_events(&mut self) -> Option<NodeEvent> {
        self.out.events.pop_front()
    }

    /// The player of a place, if it is still hosted.
    #[must_use]
    pub fn player_at(&self, place: Place) -> Option<&Arc<str>> {
        self.hosting.name_at(place)
    }

    /// The next frame to write; everything that waits, up to a size that keeps acks quick.
    pub fn poll_frame(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        if !matches!(self.link.state(), State::Opening { .. } | State::Up) || !self.has_unsent() {
            return None;
        }
        let mut frame = Vec::new();
        let written = self.out.write(&mut frame, WRITE_BYTES).and_then(|()| {
            if self.out.up {
                self.sender.write(&mut frame, WRITE_BYTES)
            } else {
                Ok(())
            }
        });
        debug_assert!(written.is_ok(), "{written:?}");
        self.tell_ended();
        if frame.is_empty() {
            return None;
        }
        self.link.sent(now_ms);
        self.counters.frames_out += 1;
        Some(frame)
    }

    /// Whether `poll_frame` may give something.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.out.has_unsent() || (self.out.up && self.sender.has_unsent())
    }

    /// When `handle_timeout` is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let held_back = if self.out.up {
            self.sender.timeout_ms()
        } else {
            None
        };
        [
            self.link.timeout_ms(),
            self.requests.timeout_ms(),
            self.hosting.timeout_ms(),
            held_back,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- time and link -------------------------------------------------------------------------------------------

    /// Does what is due. `random`: 64 fresh random bits.
    pub fn handle_timeout(&mut self, now_ms: u64, random: u64) {
        if let State::Waiting { retry_ms } = self.link.state() {
            if retry_ms <= now_ms {
                self.open(now_ms);
            }
        } else if self.link.dead(now_ms) {
            let why = if self.is_up() {
                "the hub was silent for too long"
            } else {
                "no answer from the hub"
            };
            self.lost(now_ms, random, why, false);
        } else if self.link.ping_due(now_ms) {
            let low = self.sender.low();
            self.link.sent(now_ms); // in line: not a second one while the socket is full
            self.out.push(&Message::Ping { nonce: now_ms, low });
        }
        self.requests.handle_timeout(now_ms, &mut self.out);
        self.hosting.handle_timeout(now_ms, &mut self.out);
        if self.out.up {
            self.sender.handle_timeout(now_ms);
        }
    }

    fn open(&mut self, now_ms: u64) {
        self.link.open(now_ms);
        self.out.events.push_back(NodeEvent::Connect);
        let roles: Vec<&str> = self.config.roles.iter().map(String::as_str).collect();
        self.out.push(&Message::Hello(Hello {
            version_min: VERSION_MIN,
            version_max: VERSION,
            node_key: self.key,
            epoch: self.config.epoch,
            connection: self.link.connection(),
            highest_hub_epoch: self.highest_hub_epoch,
            low: self.sender.low(),
            features: features::ALL,
            name: &self.config.name,
            roles: List::Items(&roles),
        }));
    }

    /// The connection broke, or could not be made.
    pub fn handle_disconnected(&mut self, now_ms: u64, random: u64, why: &str) {
        self.lost(now_ms, random, why, false);
    }

    fn lost(&mut self, now_ms: u64, random: u64, why: &str, back_off: bool) {
        if !matches!(self.link.state(), State::Opening { .. } | State::Up) {
            return;
        }
        self.link.lost(now_ms, random, back_off);
        self.forget_link(why);
        self.out.events.push_back(NodeEvent::Down {
            why: why.to_owned(),
        });
    }

    fn forget_link(&mut self, why: &str) {
        self.out.disconnected();
        self.sender.disconnected();
        self.tell_ended();
        self.hosting.disconnected();
        self.requests.disconnected(&mut self.out);
        self.out.events.push_back(NodeEvent::Close {
            why: why.to_owned(),
        });
    }

    /// Says goodbye, if nothing is left to resend; then writes no more after the frames that are in line.
    pub fn handle_close(&mut self) {
        if self.out.up && self.sender.is_empty() {
            let low = self.sender.low();
            self.out.push(&Message::Bye { low });
        }
    }

    /// Ends it: no further connection.
    pub fn handle_end(&mut self) {
        self.link.end();
        self.forget_link("closed");
    }

    // --- in ------------------------------------------------------------------------------------------------------

    /// Bytes of a frame that is not whole yet came: a slow link is no dead one. The driver says so of every
    /// [`LIFE_BYTES`](crate::limits::LIFE_BYTES).
    pub const fn handle_progress(&mut self, now_ms: u64) {
        if self.link.is_up() {
            self.link.heard(now_ms);
        }
    }

    /// A frame of the hub on the connection of the last `Connect`.
    pub fn handle_frame(&mut self, now_ms: u64, random: u64, frame: &[u8]) {
        if !matches!(self.link.state(), State::Opening { .. } | State::Up) {
            return;
        }
        self.link.heard(now_ms);
        self.counters.frames_in += 1;
        for message in decode(frame) {
            let handled = match message {
                Ok(message) => self.handle_message(now_ms, random, &message),
                Err(error) => Err(error.to_string()),
            };
            self.counters.messages_in += 1;
            if let Err(why) = handled {
                self.counters.violations += 1;
                self.lost(now_ms, random, &why, true);
            }
            if !matches!(self.link.state(), State::Opening { .. } | State::Up) {
                return;
            }
        }
    }

    fn handle_message(
        &mut self,
        now_ms: u64,
        random: u64,
        message: &Message<'_>,
    ) -> Result<(), String> {
        match message {
            Message::Welcome(welcome) => return self.welcome(now_ms, random, welcome),
            Message::Error { code, text } => self.refused(now_ms, random, *code, text),
            Message::Ping { nonce, .. } => {
                let low = self.sender.low();
                self.out.push(&Message::Pong { nonce: *nonce, low });
            }
            Message::Pong { .. } => {}
            _ if !self.is_up() => return Err("a message before the welcome".to_owned()),
            _ => return self.handle_welcomed(now_ms, message),
        }
        Ok(())
    }

    fn handle_welcomed(&mut self, now_ms: u64, message: &Message<'_>) -> Result<(), String> {
        match message {
            Message::Receipt { receipts } => {
                for receipt in *receipts {
                    let end =
                        self.sender
                            .receipt(now_ms, receipt.seq, receipt.outcome, receipt.detail);
                    self.finish(receipt.seq, end);
                }
            }
            Message::GroupReport(part) => {
                let end = self.sender.report(now_ms, part);
                self.finish(part.seq, end);
            }
            Message::Bound { bound } => bound
                .iter()
                .for_each(|bound| self.hosting.bound(&bound, &mut self.out)),
            Message::Deliver(deliver) => {
                self.hosting
                    .deliver(deliver, &mut self.out)
                    .map_err(|violation| violation.0.to_owned())?;
            }
            Message::LogoutDone { player, login } => {
                if self.hosting.logout_done(player, *login, &mut self.out) {
                    self.members.player_gone(player);
                }
            }
            Message::Drop { player, login, why } => {
                if self.hosting.drop(player, *login, why, &mut self.out) {
                    self.members.player_gone(player);
                }
            }
            Message::Forget {
                player,
                binding,
                up_to,
            } => {
                self.hosting.forget(player, *binding, *up_to, &mut self.out);
            }
            Message::Presence { snapshot, events } => self.presence(*snapshot, *events),
            Message::Call {
                call,
                from,
                deadline_ms,
                service,
                content,
                payload,
            } => {
                self.called(*call, from, *deadline_ms, service, *content, payload);
            }
            Message::Cancelled { call } => self.requests.cancelled(*call, &mut self.out),
            Message::Answer {
                call,
                status,
                content,
                payload,
            } => {
                self.requests
                    .answer(*call, *status, *content, payload, &mut self.out);
            }
            Message::Joined {
                request,
                ok,
                detail,
            } => self.members.joined(*request, *ok, detail, &mut self.out),
            _ => return Err("a message that only nodes send".to_owned()),
        }
        Ok(())
    }

    fn welcome(&mut self, now_ms: u64, random: u64, welcome: &Welcome<'_>) -> Result<(), String> {
        if self.is_up() {
            return Err("a second welcome".to_owned());
        }
        if !(VERSION_MIN..=VERSION).contains(&welcome.version) {
            return Err(format!(
                "protocol version {} was not offered",
                welcome.version
            ));
        }
        if welcome.hub_epoch < self.highest_hub_epoch {
            // [41] a hub that was replaced; the newer one is to be found at the same address soon.
            let why = format!(
                "hub epoch {} is older than {}",
                welcome.hub_epoch, self.highest_hub_epoch
            );
            self.lost(now_ms, random, &why, false);
            return Ok(());
        }
        self.highest_hub_epoch = welcome.hub_epoch;
        self.link.up(
            now_ms,
            welcome.heartbeat_ms,
            welcome.dead_ms,
            welcome.spread_ms,
        );
        let known = if welcome.version >= 2 {
            welcome.features
        } else {
            0
        };
        self.sender
            .limit(welcome.window_messages, welcome.window_bytes, known);
        self.hub = (welcome.version, known);
        self.out.seen_wanted = known & features::SEEN != 0;
        self.max_payload = (welcome.max_payload as usize).min(MAX_PAYLOAD_BYTES);
        self.counters.links += 1;
        self.out.up = true;
        self.out.events.push_back(NodeEvent::Up {
            hub_epoch: welcome.hub_epoch,
        });
        // Section 7: logouts pending, registration with `last`, then what is unreceipted [1].
        self.hosting.connected(&mut self.out);
        self.members.connected(&mut self.out);
        self.out.push(&Message::Register {
            claims: List::Items(&[]),
            last: true,
        });
        if self.topics != 0 {
            self.out.push(&Message::Subscribe {
                topics: self.topics,
            });
        }
        self.requests.connected(now_ms, &mut self.out);
        self.sender.disconnected();
        Ok(())
    }

    fn refused(&mut self, now_ms: u64, random: u64, code: ErrorCode, text: &str) {
        match code {
            ErrorCode::Version
            | ErrorCode::OldEpoch
            | ErrorCode::NameTaken
            | ErrorCode::NotAllowed => {
                self.out.events.push_back(NodeEvent::Refused {
                    code: code as u16,
                    text: text.to_owned(),
                });
                self.link.end();
                self.forget_link(text);
            }
            ErrorCode::Malformed | ErrorCode::Limit | ErrorCode::Replaced => {
                self.lost(now_ms, random, text, true)
            }
            ErrorCode::OldHub | ErrorCode::Silent | ErrorCode::Stopping => {
                self.lost(now_ms, random, text, false)
            }
        }
    }

    fn finish(&mut self, seq: u64, end: Option<Final>) {
        let event = match end {
            None => return,
            Some(Final::One(outcome, detail)) => NodeEvent::Receipt {
                seq,
                outcome,
                detail,
            },
            Some(Final::Many(report)) => NodeEvent::Report { seq, report },
        };
        self.counters.receipts += 1;
        self.out.events.push_back(event);
    }

    /// Messages that end on this side.
    fn tell_ended(&mut self) {
        while let Some((seq, end)) = self.sender.loose().poll_ended() {
            self.counters.receipts += 1;
            self.out.events.push_back(match end {
                LooseEnd::Lost => NodeEvent::Unknown {
                    seq,
                    why: "the link was lost behind it",
                },
                LooseEnd::Dropped(why) => NodeEvent::Receipt {
                    seq,
                    outcome: Outcome::Dropped,
                    detail: why.to_owned(),
                },
            });
        }
        while let Some((seq, what, sent_before)) = self.sender.poll_unsaid() {
            if sent_before {
                self.counters.receipts += 1;
                self.out.events.push_back(NodeEvent::Unknown {
                    seq,
                    why: "it went out before, and this hub is too old for it",
                });
                continue;
            }
            let detail = format!("not supported: {what}");
            self.finish(seq, Some(Final::One(Outcome::Refused, detail)));
        }
    }

    fn presence(&mut self, snapshot: bool, events: List<'_, Presence<'_>>) {
        let entries = events
            .iter()
            .map(|event| (event.event, event.name.to_owned(), event.node.to_owned()))
            .collect();
        self.out
            .events
            .push_back(NodeEvent::Presence { snapshot, entries });
    }

    fn called(
        &mut self,
        hub_call: u64,
        from: &str,
        deadline_ms: u32,
        service: &str,
        content: Content,
        payload: &[u8],
    ) {
        let Some(call) = self.requests.call(hub_call) else {
            let text = b"the service has too many calls waiting";
            self.out.push(&Message::Reply {
                call: hub_call,
                ok: false,
                content: Content::Text,
                payload: text,
            });
            return;
        };
        self.out.events.push_back(NodeEvent::Call {
            call,
            from: from.to_owned(),
            deadline_ms,
            service: service.to_owned(),
            content,
            payload: payload.to_vec(),
        });
    }

    // --- the owner's calls ---------------------------------------------------------------------------------------

    fn check(&self, payload: &[u8]) -> Result<(), NodeError> {
        if self.link.state() == State::Ended {
            return Err(NodeError::Ended);
        }
        if payload.len() > self.max_payload {
            return Err(
                WireError::over("payload", payload.len() as u64, self.max_payload as u64).into(),
            );
        }
        Ok(())
    }

    /// Sends a message that must be delivered; its seq. `repeat`: the seq of an earlier try in this epoch.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn send(
        &mut self,
        recipient: Recipient,
        content: Content,
        payload: &[u8],
        repeat: Option<u64>,
    ) -> Result<u64, NodeError> {
        let options = SendOptions {
            repeat,
            ..SendOptions::default()
        };
        self.send_with(recipient, content, payload, &options)
    }

    /// Sends a message as `options` say; its seq.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn send_with(
        &mut self,
        recipient: Recipient,
        content: Content,
        payload: &[u8],
        options: &SendOptions<'_>,
    ) -> Result<u64, NodeError> {
        self.check(payload)?;
        match &recipient {
            Recipient::Player(name) => check_name("player", name)?,
            Recipient::Group(name) => check_name("group", name)?,
            Recipient::AllPlayers | Recipient::AllNodes => {}
        }
        let to_one = matches!(recipient, Recipient::Player(_));
        let must_deliver = options.policy == Policy::MustDeliver;
        let sound = (options.deliver_at_ms == 0 || (to_one && must_deliver))
            && (options.repeat.is_none() || must_deliver)
            && (!options.quiet || !must_deliver)
            && (options.policy == Policy::Latest || options.key.is_empty());
        if !sound {
            return Err(NodeError::Options);
        }
        if options.key.len() > MAX_NAME_BYTES {
            let (given, limit) = (options.key.len() as u64, MAX_NAME_BYTES as u64);
            return Err(WireError::over("key", given, limit).into());
        }
        let up = self.is_up();
        let seq = self
            .sender
            .push(recipient, content, payload, options, up)
            .map_err(|error| match error {
                SendError::Full => NodeError::Full,
                SendError::SeqUsed => NodeError::SeqUsed,
            })?;
        self.counters.sends += 1;
        if !must_deliver {
            self.tell_ended();
        }
        Ok(seq)
    }

    /// Whether the window has room for a payload of that size.
    #[must_use]
    pub fn has_room(&self, payload: &[u8]) -> bool {
        self.sender.has_room(payload)
    }

    /// Asks a service; the call's number. `timeout_ms` 0: the default.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn request(
        &mut self,
        now_ms: u64,
        service: &str,
        content: Content,
        payload: &[u8],
        timeout_ms: u32,
    ) -> Result<u64, NodeError> {
        self.check(payload)?;
        check_name("service", service)?;
        let timeout_ms = if timeout_ms == 0 {
            REQUEST_MS as u32
        } else {
            timeout_ms
        };
        let call =
            self.requests
                .request(now_ms, service, content, payload, timeout_ms, &mut self.out);
        call.ok_or(NodeError::Full)
    }

    /// Asks the hub itself (1 status, 2 nodes, 3 players); the call's number.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn query(
        &mut self,
        now_ms: u64,
        what: u8,
        argument: &str,
        timeout_ms: u32,
    ) -> Result<u64, NodeError> {
        self.check(&[])?;
        let timeout_ms = if timeout_ms == 0 {
            REQUEST_MS as u32
        } else {
            timeout_ms
        };
        self.requests
            .query(now_ms, what, argument, timeout_ms, &mut self.out)
            .ok_or(NodeError::Full)
    }

    /// Nobody waits for that answer any more.
    pub fn cancel(&mut self, call: u64) {
        self.requests.cancel(call, &mut self.out);
    }

    /// Answers a call. False: nobody waits for it.
    ///
    /// # Errors
    /// A payload over the limit.
    pub fn reply(
        &mut self,
        call: u64,
        ok: bool,
        content: Content,
        payload: &[u8],
    ) -> Result<bool, NodeError> {
        self.check(payload)?;
        Ok(self
            .requests
            .reply(call, ok, content, payload, &mut self.out))
    }

    /// A player's client came.
    ///
    /// # Errors
    /// A bad name, or too many players.
    pub fn attach(
        &mut self,
        player: &str,
        login: u64,
        cursor: Cursor,
    ) -> Result<Attached, NodeError> {
        self.check(&[])?;
        check_name("player", player)?;
        match self.hosting.attach(player, login, cursor, &mut self.out) {
            Attached::Full => Err(NodeError::Full),
            Attached::LoginPending => {
                self.members.player_gone(player); // memberships end with the login before
                Ok(Attached::LoginPending)
            }
            resumed => Ok(resumed),
        }
    }

    /// The login under which the player is hosted here.
    #[must_use]
    pub fn login_of(&self, player: &str) -> Option<u64> {
        self.hosting.login_of(player)
    }

    /// The player's client has handled all of that sender up to `id`.
    pub fn handled(&mut self, player: &str, id: MessageId) {
        self.hosting.handled(player, id, &mut self.out);
    }

    /// The clients of these players have, as with `handled`.
    pub fn handled_by(&mut self, places: &[Place], id: MessageId) {
        for place in places {
            self.hosting.handled_at(*place, id, &mut self.out);
        }
    }

    /// The player's client is gone; logged out after the grace time.
    pub fn detach(&mut self, now_ms: u64, player: &str) {
        self.hosting.detach(now_ms, player);
    }

    /// Logs the player out. False: it is not here.
    pub fn leave_player(&mut self, player: &str) -> bool {
        self.hosting.leave(player, &mut self.out)
    }

    /// Joins a player to a group, or takes it out; the request's number.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn member(
        &mut self,
        join: bool,
        durable: bool,
        group: &str,
        player: &str,
    ) -> Result<u64, NodeError> {
        self.check(&[])?;
        check_name("group", group)?;
        check_name("player", player)?;
        self.members
            .ask(join, durable, group, player, &mut self.out)
            .ok_or(NodeError::Full)
    }

    /// Asks for the presence stream, now and after each welcome.
    pub fn subscribe(&mut self, topics: u8) {
        self.topics = topics;
        self.out.push_if_up(&Message::Subscribe { topics });
    }
}
