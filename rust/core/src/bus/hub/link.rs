//! A link's life: hello, heartbeats, replaced, lost, closed; and its node's: grace, bye, roster.

use crate::bus::broken::Rule;
use crate::bus::hub::config::{Allowed, CloseReason, HubOut, matches};
use crate::bus::hub::directory::NONE;
use crate::bus::hub::mailbox::Purpose;
use crate::bus::hub::{Hub, session::Link};
use crate::bus::message::{
    ErrorCode, Hello, Message, MessageId, PresenceKind, SlotRange, VERSION, VERSION_MIN, Welcome,
    features, node_key,
};
use crate::bus::store::{DEFERRED_KEY, DEFERRED_NAME, RosterEntry, StoreOp};
use crate::limits::MAX_PAYLOAD_BYTES;
use std::sync::Arc;

/// The highest slot: players and groups are cut into 16,384 by hash (DESIGN section 9).
const LAST_SLOT: u16 = 16_383;
/// What this hub can do for a node of version 2.
const FEATURES: u64 = features::ALL;
/// A node adds at most this much to its wait before it connects again.
const MAX_SPREAD_MS: u32 = 500;

/// The highest version that both sides speak.
fn common_version(hello: &Hello<'_>) -> Option<u16> {
    let version = hello.version_max.min(VERSION);
    (version >= hello.version_min.max(VERSION_MIN)).then_some(version)
}

impl Hub {
    /// First message of a link: who it is, and whether it may.
    pub(super) fn hello(&mut self, at: u32, hello: &Hello<'_>) {
        if let Err((code, text)) = self.check_hello(at, hello) {
            self.counters.hellos_refused += 1;
            self.close_link(at, code, &text);
            if code == ErrorCode::OldHub {
                self.exit(text);
            }
            return;
        }
        let session = match self.sessions.find(hello.node_key) {
            Some(session) => session,
            None => self.sessions.add(hello.node_key, hello.name.into()),
        };
        let old = self.sessions.get(session).link;
        if old != NONE && !self.broken.lacks(Rule::OneConnection) {
            self.close_link(
                old,
                ErrorCode::Replaced,
                "a newer connection of this node took over",
            );
        }
        if hello.epoch > self.sessions.get(session).epoch {
            self.begin_epoch(session, hello.epoch);
        }
        self.counters.hellos += 1;
        self.raise_low(session, hello.low);
        let entry = self.sessions.get_mut(session);
        entry.connection = hello.connection;
        entry.link = at;
        entry.grace_until = None;
        entry.features = if common_version(hello) >= Some(2) {
            hello.features
        } else {
            0
        };
        entry.roles = hello.roles.iter().map(Arc::from).collect();
        let name = entry.name.clone();
        if let Some(link) = self.links.get_mut(at) {
            link.session = session;
            link.version = common_version(hello).unwrap_or(VERSION_MIN);
        }
        self.welcome(at);
        self.calls.serve(session, &self.sessions.get(session).roles);
        self.hand_out_calls();
        if !self.sessions.get(session).linked {
            self.write_roster(session, true);
            self.announce(PresenceKind::NodeUp, &name, &name, (0, session));
        }
    }

    fn check_hello(&self, at: u32, hello: &Hello<'_>) -> Result<(), (ErrorCode, String)> {
        if self.stopping {
            return Err((ErrorCode::Stopping, super::STOPS.into()));
        }
        if common_version(hello).is_none() {
            let (low, high) = (hello.version_min, hello.version_max);
            return Err((
                ErrorCode::Version,
                format!(
                    "the node speaks versions {low} to {high}, the hub {VERSION_MIN} to {VERSION}"
                ),
            ));
        }
        // First of all: what a stranger says of other hubs must not end this one.
        self.check_allowed(at, hello)?;
        if hello.highest_hub_epoch > self.config.hub_epoch {
            let (theirs, ours) = (hello.highest_hub_epoch, self.config.hub_epoch);
            return Err((
                ErrorCode::OldHub,
                format!(
                    "{} knows hub epoch {theirs}, this one is {ours}",
                    hello.name
                ),
            ));
        }
        if hello.node_key == DEFERRED_KEY {
            return Err((
                ErrorCode::NameTaken,
                format!("{DEFERRED_NAME} is the name of the deferred list"),
            ));
        }
        if hello.node_key != node_key(hello.name) {
            return Err((
                ErrorCode::NameTaken,
                "the node key is not that of the name".into(),
            ));
        }
        let Some(session) = self.sessions.find(hello.node_key) else {
            let full = self.sessions.len() as usize >= self.config.max_nodes;
            return if full {
                Err((ErrorCode::Limit, "limit of nodes reached".into()))
            } else {
                Ok(())
            };
        };
        let session = self.sessions.get(session);
        if &*session.name != hello.name {
            return Err((
                ErrorCode::NameTaken,
                format!("{} has the same node key", session.name),
            ));
        }
        if hello.epoch < session.epoch || (hello.epoch == session.epoch && session.over) {
            return Err((
                ErrorCode::OldEpoch,
                format!("epoch {}, the highest is {}", hello.epoch, session.epoch),
            ));
        }
        let late = hello.epoch == session.epoch && hello.connection <= session.connection;
        if late && !self.broken.lacks(Rule::LateHello) {
            return Err((
                ErrorCode::Replaced,
                "a newer connection of this node was here".into(),
            ));
        }
        Ok(())
    }

    fn check_allowed(&self, at: u32, hello: &Hello<'_>) -> Result<(), (ErrorCode, String)> {
        let key = self.links.get(at).and_then(|link| link.peer.key);
        let roles: Vec<&str> = hello.roles.iter().collect();
        self.may_be(key, hello.name, &roles)
    }

    /// Whether a key may use a name and roles.
    fn may_be(
        &self,
        key: Option<[u8; 32]>,
        name: &str,
        roles: &[&str],
    ) -> Result<(), (ErrorCode, String)> {
        if self.config.allowed.is_empty() {
            return Ok(());
        }
        let mut of_key = self
            .config
            .allowed
            .iter()
            .filter(|allowed| Some(allowed.key) == key)
            .peekable();
        if of_key.peek().is_none() {
            return Err((ErrorCode::NotAllowed, "this key is not allowed".into()));
        }
        let role = |patterns: &[String], role: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, role))
        };
        let fits = |allowed: &Allowed| {
            matches(&allowed.names, name) && roles.iter().all(|name| role(&allowed.roles, name))
        };
        if of_key.any(fits) {
            Ok(())
        } else {
            Err((
                ErrorCode::NotAllowed,
                "this key may not use this name or role".into(),
            ))
        }
    }

    /// Another list of keys that may connect: links of those that may not any more are closed.
    pub fn set_allowed(&mut self, now_ms: u64, allowed: Vec<Allowed>) {
        self.now = now_ms;
        self.config.allowed = allowed;
        for at in 0..self.links.end() {
            let Some(link) = self.links.get(at).filter(|link| link.session != NONE) else {
                continue; // Its hello is still to come, and is looked at then.
            };
            let session = self.sessions.get(link.session);
            let roles: Vec<&str> = session.roles.iter().map(|role| &**role).collect();
            if let Err((code, text)) = self.may_be(link.peer.key, &session.name, &roles) {
                self.close_link(at, code, &text);
            }
        }
    }

    /// A new process of a node: all hosting of the old one ends at once [6].
    fn begin_epoch(&mut self, session: u32, epoch: u64) {
        self.give_up_players(session);
        self.trim_deferred_below(session, u64::MAX);
        let entry = self.sessions.get_mut(session);
        entry.epoch = epoch;
        entry.refused.clear();
        entry.expired.clear();
        entry.over = false;
        entry.low = 0;
        entry.linked = false; // So that the roster gets the new epoch.
    }

    fn welcome(&mut self, at: u32) {
        let slots = [SlotRange {
            first: 0,
            last: LAST_SLOT,
            hub: &self.config.name,
        }];
        let version = self.links.get(at).map_or(VERSION, |link| link.version);
        let welcome = Welcome {
            version,
            hub_epoch: self.config.hub_epoch,
            heartbeat_ms: self.config.heartbeat_ms as u32,
            dead_ms: self.config.dead_ms as u32,
            spread_ms: self.sessions.len().min(MAX_SPREAD_MS),
            max_payload: MAX_PAYLOAD_BYTES as u32,
            window_messages: self.config.window_messages,
            window_bytes: self.config.window_bytes,
            features: if version >= 2 { FEATURES } else { 0 },
            slots: (&slots).into(),
        };
        if let Some(link) = self.links.get_mut(at) {
            link.out.control(&Message::Welcome(welcome));
            self.make_ready(at);
        }
    }

    /// Tells the store that a node is linked, or is not any more [4b].
    fn write_roster(&mut self, session: u32, linked: bool) {
        let entry = self.sessions.get_mut(session);
        entry.linked = linked;
        // After a bye only a higher epoch may come: so the roster says that, and marks of this one are over.
        let epoch = entry.epoch + u64::from(entry.over);
        let entry = RosterEntry {
            node_key: entry.node_key,
            name: entry.name.clone(),
            epoch,
            linked,
        };
        self.mailbox
            .push(StoreOp::Roster { entry }, Purpose::Nothing);
    }

    /// Bytes that are no messages of a node.
    pub(super) fn malformed(&mut self, at: u32, text: &str) {
        self.counters.malformed += 1;
        self.close_link(at, ErrorCode::Malformed, text);
    }

    /// Says why and closes; the node behind it has lost its link.
    pub(super) fn close_link(&mut self, at: u32, code: ErrorCode, text: &str) {
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        if link.closing.is_some() {
            return;
        }
        link.out.control(&Message::Error { code, text });
        self.end_link(at, Some(code), text);
    }

    fn end_link(&mut self, at: u32, code: Option<ErrorCode>, text: &str) {
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        link.closing = Some(CloseReason {
            code,
            text: text.to_string(),
        });
        link.out.drop_payload();
        let session = link.session;
        self.make_ready(at);
        if session != NONE {
            self.link_lost(session);
        }
    }

    /// A node's link is gone: its players wait for it, for the grace time.
    pub(super) fn link_lost(&mut self, session: u32) {
        self.fail_calls_of(session);
        self.subscribers.remove(&session);
        self.drop_behind_held(session);
        let entry = self.sessions.get_mut(session);
        entry.clear_link();
        entry.grace_until = Some(self.now + self.config.node_grace_ms);
        for player in entry.players.clone() {
            self.unbind(player);
        }
    }

    /// The node ends, and says so.
    pub(super) fn bye(&mut self, session: u32, at: u32, low: u64) {
        self.raise_low(session, low);
        self.end_link(at, None, "bye");
        self.sessions.get_mut(session).over = true;
        self.node_down(session);
    }

    fn node_down(&mut self, session: u32) {
        self.give_up_players(session);
        let entry = self.sessions.get_mut(session);
        entry.grace_until = None;
        let name = entry.name.clone();
        if entry.linked {
            self.write_roster(session, false);
            self.announce(PresenceKind::NodeDown, &name, &name, (0, session));
        }
        self.back(session);
    }

    /// A node whose return the hold waits for is back, or is known to be gone.
    pub(super) fn back(&mut self, session: u32) {
        self.awaited.remove(&self.sessions.get(session).node_key);
        if self.hold && self.mailbox.opened && self.awaited.is_empty() {
            self.end_hold();
        }
    }

    pub(super) fn ping(&mut self, session: u32, link: u32, nonce: u64, low: u64) {
        self.raise_low(session, low);
        self.control(link, &Message::Pong { nonce, low: 0 });
    }

    /// What a sender says of its smallest seq without receipt.
    pub(super) fn raise_low(&mut self, session: u32, low: u64) {
        let entry = self.sessions.get_mut(session);
        if low > entry.low {
            entry.low = low;
            entry.busy.raise_low(low);
            entry.expired.raise_low(low);
            if !entry.refused.is_empty() {
                entry.refused.retain(|_, of_player| {
                    *of_player = of_player.split_off(&low);
                    !of_player.is_empty()
                });
            }
            let known = entry.deferred.first_key_value();
            if known.is_some_and(|(seq, _)| *seq < low) {
                self.trim_deferred_below(session, low);
            }
        }
    }

    fn trim_deferred_below(&mut self, session: u32, low: u64) {
        let entry = self.sessions.get_mut(session);
        let (node_key, epoch) = (entry.node_key, entry.epoch);
        let kept = entry.deferred.split_off(&low);
        for (seq, player) in std::mem::replace(&mut entry.deferred, kept) {
            let id = MessageId {
                node_key,
                epoch,
                seq,
            };
            self.trim_deferred(id, player);
        }
    }

    /// Its sender can't send it again: the store's mark of it may go [24].
    pub(super) fn trim_deferred(&mut self, id: MessageId, player: Arc<str>) {
        let op = StoreOp::Trim {
            player,
            sender: id.node_key,
            epoch: id.epoch,
            seq: id.seq,
        };
        self.mailbox.push(op, Purpose::Nothing);
    }

    /// Queues a message that never waits behind payload; closes a link whose node does not read.
    pub(super) fn control(&mut self, at: u32, message: &Message<'_>) {
        let Some(link) = self.links.get_mut(at) else {
            return;
        };
        if link.closing.is_none() {
            link.out.control(message);
            self.make_ready(at);
        }
    }

    /// Something is to be taken from a link, perhaps.
    pub(super) fn make_ready(&mut self, at: u32) {
        if let Some(link) = self.links.get_mut(at)
            && !link.ready
            && (link.closing.is_some() || (link.writable && !link.out.is_empty()))
        {
            link.ready = true;
            self.ready.push_back(at);
        }
    }

    /// One frame of a link, or its end.
    pub(super) fn take_from(&mut self, at: u32) -> Option<HubOut> {
        let link = self.links.get_mut(at)?;
        link.ready = false;
        if !link.writable && link.closing.is_none() {
            return None;
        }
        let conn = link.conn;
        let Some(bytes) = link.out.frame() else {
            return self.take_close(at);
        };
        link.sent_ms = self.now;
        let (session, quiet) = (
            link.session,
            link.out.control_bytes() == 0 && link.closing.is_none(),
        );
        self.counters.frames_out += 1;
        self.counters.bytes_out += bytes.len() as u64;
        let messages = self.observed.kinds_out.count(&bytes);
        if let Some(link) = self.links.get_mut(at) {
            link.traffic.messages_out += messages;
            link.traffic.bytes_out += bytes.len() as u64;
        }
        self.resume(at);
        if quiet && session != NONE {
            self.presence_chunk(session);
        }
        self.make_ready(at);
        Some(HubOut::Frame { conn, bytes })
    }

    fn take_close(&mut self, at: u32) -> Option<HubOut> {
        let why = self.links.get_mut(at)?.closing.take()?;
        let Link { conn, .. } = self.links.remove(at)?;
        Some(HubOut::Close { conn, why })
    }

    /// Heartbeats both ways [5], and links that do not read.
    pub(super) fn check_links(&mut self) {
        for at in 0..self.links.end() {
            let Some(link) = self.links.get_mut(at) else {
                continue;
            };
            if link.closing.is_some() {
                continue;
            }
            if link.session == NONE && self.now >= link.since_ms + self.config.hello_ms {
                self.counters.silent += 1;
                self.close_link(at, ErrorCode::Silent, "no hello in time");
            } else if self.now >= link.heard_ms + self.config.dead_ms {
                self.counters.silent += 1;
                self.close_link(at, ErrorCode::Silent, "nothing was heard for too long");
            } else if link.out.control_bytes() > self.config.control_bytes
                || link.out.payload_bytes() > self.config.link_bytes + self.config.control_bytes
            {
                self.counters.overflowed += 1;
                self.close_link(at, ErrorCode::Limit, "the node does not read");
            } else if self.now >= link.sent_ms + self.config.heartbeat_ms
                && link.session != NONE
                && link.out.is_empty()
            {
                link.out.control(&Message::Ping {
                    nonce: self.now,
                    low: 0,
                });
                self.make_ready(at);
            }
        }
    }

    /// Nodes whose grace is over.
    pub(super) fn check_sessions(&mut self) {
        for session in 0..self.sessions.len() {
            if self
                .sessions
                .get(session)
                .grace_until
                .is_some_and(|until| self.now >= until)
            {
                self.node_down(session);
            }
        }
    }
}
