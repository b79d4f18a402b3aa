//! Node processes: started, killed, fed and emptied; what their cores say goes to clients and checker.

use super::links::{AHEAD, Link};
use super::what::{Heard, What};
use super::{CLUB, GROUP, World};
use zmqgame_core::bus::hub::{Conn, Peer};
use zmqgame_core::bus::memory_store::MemoryStore;
use zmqgame_core::bus::message::{MessageId, Outcome, POLICY_SEQ, node_key};
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::{Node, NodeConfig};
use zmqgame_core::bus::store::{DEFERRED_KEY, Row};

/// A process over its starts.
pub(super) struct NodeProcess {
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) incarnation: u64,
    pub(super) core: Option<Node>,
    pub(super) conn: Option<Conn>,
    pub(super) timer_at: u64,
    /// It can't reach the hub before.
    pub(super) cut_off_until_ms: u64,
}

/// Whether a committed row holds this message, or the list of deferred ones does.
fn holds(store: &MemoryStore, player: &str, id: MessageId, token: Option<u64>) -> bool {
    let token = token.map(u64::to_le_bytes);
    let promoted = |row: &Row| {
        row.id.node_key == DEFERRED_KEY && token.is_some_and(|token| *row.payload == token)
    };
    let mut deferred = store.deferred.values();
    let mut rows = store.rows(player).iter();
    rows.any(|row| row.id == id || promoted(row)) || deferred.any(|later| later.id == id)
}

impl World {
    pub(super) fn node_start(&mut self, node: usize) {
        if self.nodes[node].core.is_some() {
            return;
        }
        self.note(6, node as u64);
        let mut clock_ms = self.now_ms;
        if self.knobs.clock_ahead_ms > 0 {
            clock_ms += self.prng.below(self.knobs.clock_ahead_ms);
        }
        let epoch = (self.nodes[node].epoch + 1).max(clock_ms);
        self.node_begin(node, epoch, clock_ms);
    }

    /// A process of any epoch.
    pub(super) fn node_start_as(&mut self, node: usize, epoch: u64) {
        self.node_begin(node, epoch, self.now_ms);
    }

    fn node_begin(&mut self, node: usize, epoch: u64, clock_ms: u64) {
        let process = &mut self.nodes[node];
        process.epoch = epoch;
        process.incarnation += 1;
        process.timer_at = u64::MAX;
        let config = NodeConfig {
            name: process.name.clone(),
            epoch: process.epoch,
            connection: clock_ms,
            roles: Vec::new(),
            next_seq: 1,
        };
        process.core = Node::new(config, self.now_ms).ok();
        assert!(process.core.is_some(), "the name is good");
        if let Some(core) = process.core.as_mut() {
            self.variant.change_node(core);
        }
        self.drain_node(node);
    }

    pub(super) fn node_kill(&mut self, node: usize) {
        if self.nodes[node].core.take().is_none() {
            return;
        }
        self.note(7, node as u64);
        let epoch = self.nodes[node].epoch;
        self.checker
            .sender_killed(node_key(&self.nodes[node].name), epoch);
        if let Some(conn) = self.nodes[node].conn.take() {
            self.sever(conn);
            if let Some(link) = self.links.get_mut(&conn) {
                link.at_node = false;
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].is_at(node) {
                let (visit, delay) = (self.clients[client].visit, self.way());
                self.later(delay, What::ClientHears(client, visit, Heard::Closed));
            }
        }
        if self.script.is_none() {
            let delay = self.prng.between(5, 12_000);
            self.later(delay, What::NodeStart(node));
        }
    }

    pub(super) fn node_of(&self, conn: Conn) -> Option<usize> {
        let link = self.links.get(&conn).filter(|link| link.at_node)?;
        let process = &self.nodes[link.node];
        (process.incarnation == link.node_incarnation && process.conn == Some(conn))
            .then_some(link.node)
    }

    pub(super) fn node_in(&mut self, conn: Conn, frame: &[u8]) {
        let Some(link) = self.links.get_mut(&conn).filter(|link| !link.severed) else {
            return;
        };
        link.on_way = link.on_way.saturating_sub(1);
        let takes_more = link.full && link.on_way < AHEAD;
        link.full &= !takes_more;
        if link.held_to_node {
            return link.unread_by_node.push(frame.to_vec());
        }
        let Some(node) = self.node_of(conn) else {
            return;
        };
        if takes_more {
            self.writable(conn, true);
        }
        self.note(8, frame.len() as u64);
        let (now_ms, random) = (self.now_ms, self.prng.bits());
        if let Some(core) = self.nodes[node].core.as_mut() {
            core.handle_frame(now_ms, random, frame);
        }
        self.drain_node(node);
    }

    pub(super) fn node_lost(&mut self, conn: Conn) {
        if let Some(node) = self.node_of(conn) {
            let (now_ms, random) = (self.now_ms, self.prng.bits());
            if let Some(core) = self.nodes[node].core.as_mut() {
                core.handle_disconnected(now_ms, random, "closed");
            }
            self.drain_node(node);
        } else if let Some(link) = self.links.get_mut(&conn) {
            link.at_node = false;
            self.tidy_link(conn);
        }
    }

    pub(super) fn node_timer(&mut self, node: usize, at: u64) {
        if at != self.nodes[node].timer_at {
            return;
        }
        self.nodes[node].timer_at = u64::MAX;
        let (now_ms, random) = (self.now_ms, self.prng.bits());
        if let Some(core) = self.nodes[node].core.as_mut() {
            core.handle_timeout(now_ms, random);
        }
        self.drain_node(node);
    }

    pub(super) fn connect(&mut self, node: usize) {
        self.last_conn += 1;
        let conn = self.last_conn;
        self.nodes[node].conn = Some(conn);
        let script = self.script.as_ref();
        let blocked = script.is_some_and(|gates| gates.blocked.contains(&node))
            || self.now_ms < self.nodes[node].cut_off_until_ms;
        let at_hub = self.hub.is_some() && !blocked;
        self.links.insert(
            conn,
            Link {
                node,
                node_incarnation: self.nodes[node].incarnation,
                hub_incarnation: self.hub_incarnation,
                to_hub_at: self.now_ms,
                to_node_at: self.now_ms,
                at_hub,
                at_node: true,
                severed: !at_hub,
                held_up: false,
                unread: Vec::new(),
                lost_late: false,
                held_to_node: false,
                unread_by_node: Vec::new(),
                stalled: false,
                slow_ms: 0,
                slow_until_ms: 0,
                on_way: 0,
                full: false,
            },
        );
        if let Some(hub) = self.hub.as_mut().filter(|_| at_hub) {
            hub.handle_connected(self.now_ms, conn, Peer::default());
            self.drain_hub();
        } else {
            let delay = self.way();
            self.later(delay, What::NodeLost(conn));
        }
    }

    pub(super) fn drain_node(&mut self, node: usize) {
        loop {
            let Some(core) = self.nodes[node].core.as_mut() else {
                return;
            };
            if let Some(event) = core.poll_event() {
                self.obey(node, event);
            } else if let Some(frame) = core.poll_frame(self.now_ms) {
                if let Some(conn) = self.nodes[node].conn {
                    self.send_to_hub(conn, frame);
                }
            } else {
                break;
            }
        }
        let at = self.nodes[node].core.as_ref().and_then(Node::poll_timeout);
        if let Some(at) = at {
            let at = at.max(self.now_ms + 1);
            if at < self.nodes[node].timer_at {
                self.nodes[node].timer_at = at;
                self.agenda.add(at, What::NodeTimer(node, at));
            }
        }
    }

    pub(super) fn obey(&mut self, node: usize, event: NodeEvent) {
        match event {
            NodeEvent::Connect => self.connect(node),
            NodeEvent::Close { .. } => {
                if let Some(conn) = self.nodes[node].conn.take() {
                    self.close_at_node(conn);
                }
            }
            NodeEvent::Receipt { seq, outcome, .. } if seq & POLICY_SEQ != 0 => {
                self.loose.receipt(self.id(node, seq), outcome);
                self.tell_loose();
            }
            NodeEvent::Report { seq, report } if seq & POLICY_SEQ != 0 => {
                self.loose.report(self.id(node, seq), report.counts);
                self.tell_loose();
            }
            NodeEvent::Unknown { seq, .. } => {
                self.loose.unknown(self.id(node, seq));
                self.tell_loose();
            }
            NodeEvent::Receipt { seq, outcome, .. } => {
                self.take_receipt(self.id(node, seq), outcome)
            }
            NodeEvent::Report { seq, report } => {
                let id = self.id(node, seq);
                for entry in report.players.iter() {
                    let (player, outcome) = (entry.player, entry.outcome);
                    self.checker.sent(id, player);
                    let stored = holds(&self.store, player, id, self.checker.token(id));
                    self.checker
                        .receipt(self.now_ms, id, player, outcome, stored);
                }
                self.checker.reported(id);
                self.busy_at = self.now_ms;
            }
            NodeEvent::Message {
                player,
                id,
                payload,
                ..
            } => {
                if id.node_key == DEFERRED_KEY {
                    self.checker.promoted(self.now_ms, id, &payload);
                }
                self.tell_client(node, &player, Heard::Message(id));
            }
            NodeEvent::Bound { player, login } => {
                self.tell_client(node, &player, Heard::Bound(login));
                self.join_groups(node, &player);
            }
            NodeEvent::Dropped { player, .. } => self.tell_client(node, &player, Heard::Closed),
            NodeEvent::LoggedOut { player } => self.tell_client(node, &player, Heard::LoggedOut),
            NodeEvent::Forget { player, up_to } => {
                self.tell_client(node, &player, Heard::Forget(up_to));
            }
            NodeEvent::Refused { code, text } => {
                self.exits
                    .push(format!("{}: {code} {text}", self.nodes[node].name));
            }
            _ => {}
        }
    }

    fn take_receipt(&mut self, id: MessageId, outcome: Outcome) {
        for player in self.checker.recipients(id) {
            let stored = holds(&self.store, &player, id, self.checker.token(id));
            self.checker
                .receipt(self.now_ms, id, &player, outcome, stored);
        }
        self.busy_at = self.now_ms;
    }

    fn join_groups(&mut self, node: usize, player: &str) {
        if let Some(core) = self.nodes[node].core.as_mut() {
            let _ = core.member(true, false, GROUP, player);
            if self.knobs.club_per_mille > 0 && player.ends_with(['0', '2', '4', '6', '8']) {
                let _ = core.member(true, true, CLUB, player);
            }
        }
    }

    pub(super) fn id(&self, node: usize, seq: u64) -> MessageId {
        MessageId {
            node_key: node_key(&self.nodes[node].name),
            epoch: self.nodes[node].epoch,
            seq,
        }
    }
}
