//! One run: hub, nodes, clients, store and network in one thread on one virtual clock.
//!
//! What happens next is the entry of the agenda with the smallest (time, order). A link is two FIFO lanes; a cut
//! loses what is under way in both, and each end notices at its own time. A killed process loses everything but
//! what the store has committed and what clients remember.

use crate::agenda::Agenda;
use crate::checker::Checker;
use crate::client::{Client, Place};
use crate::knobs::Knobs;
use crate::prng::Prng;
use std::collections::BTreeMap;
use zmqgame_core::bus::codec::decode;
use zmqgame_core::bus::hub::{Conn, Hub, HubConfig, HubOut, Peer};
use zmqgame_core::bus::memory_store::{MemoryMailbox, MemoryStore};
use zmqgame_core::bus::message::{Content, MessageId, node_key};
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::hosting::Attached;
use zmqgame_core::bus::node::sender::Recipient;
use zmqgame_core::bus::node::{Node, NodeConfig};
use zmqgame_core::bus::store::{StoreBatch, StoreDone, StoreError};

/// The group that every hosted player joins.
const GROUP: &str = "everyone";
/// After the faults everything must have come in within this time: client grace, node grace and store waits fit in.
const HEAL_MS: u64 = 180_000;
/// Nothing may happen for so long before a run counts as quiet.
const QUIET_MS: u64 = 10_000;
/// Steps of one run: a run that needs more is going in circles.
const MAX_STEPS: u64 = 20_000_000;

/// What can happen.
#[derive(Debug)]
pub enum What {
    /// A frame arrives at the hub.
    HubIn(Conn, Vec<u8>),
    /// A frame arrives at a node.
    NodeIn(Conn, Vec<u8>),
    /// The hub notices that a connection is gone.
    HubLost(Conn),
    /// A node notices that its connection is gone.
    NodeLost(Conn),
    /// The hub's timer.
    HubTimer(u64),
    /// A node's timer.
    NodeTimer(usize, u64),
    /// A store batch is done: (hub incarnation, batch, whether it fails).
    StoreDone(u64, StoreBatch, bool),
    /// A process starts.
    HubStart,
    /// As above.
    NodeStart(usize),
    /// The workload: one more message.
    Send,
    /// A client looks for a host.
    Attach(usize, u64),
    /// A host hears from a client: (client, visit, node, node incarnation, what).
    HostHears(usize, u64, usize, u64, Said),
    /// A client hears from its host.
    ClientHears(usize, u64, Heard),
    /// A fault of a kind.
    Fault(Fault),
}

/// From a client to its host.
#[derive(Debug)]
pub enum Said {
    /// It handled a message.
    Handled(MessageId),
    /// Its connection is gone.
    Gone,
    /// It wants to leave for good.
    Leave,
}

/// From a host to its client.
#[derive(Debug)]
pub enum Heard {
    /// Its login.
    Bound(u64),
    /// A message.
    Message(MessageId),
    /// Its session's logout is confirmed.
    LoggedOut,
    /// A mark that may go.
    Forget(MessageId),
    /// The connection is gone.
    Closed,
}

/// Faults, each with its own mean time between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the hub.
    HubKill,
    /// kill -9 of a hosting node.
    NodeKill,
    /// kill -9 of a sender.
    SenderKill,
    /// A link is cut.
    Cut,
    /// A client moves to another host.
    Move,
    /// A client vanishes and comes back.
    Vanish,
    /// A client leaves.
    Leave,
    /// The store fails the next batch.
    StoreFail,
}

const FAULTS: [Fault; 8] = [
    Fault::HubKill,
    Fault::NodeKill,
    Fault::SenderKill,
    Fault::Cut,
    Fault::Move,
    Fault::Vanish,
    Fault::Leave,
    Fault::StoreFail,
];

struct NodeProcess {
    name: String,
    epoch: u64,
    incarnation: u64,
    core: Option<Node>,
    conn: Option<Conn>,
    timer_at: u64,
}

struct Link {
    node: usize,
    node_incarnation: u64,
    hub_incarnation: u64,
    to_hub_at: u64,
    to_node_at: u64,
    at_hub: bool,
    at_node: bool,
    severed: bool,
}

/// The state of a run.
pub struct World {
    knobs: Knobs,
    prng: Prng,
    agenda: Agenda<What>,
    now_ms: u64,
    hub: Option<Hub>,
    hub_incarnation: u64,
    hub_timer_at: u64,
    store: MemoryStore,
    store_fails: bool,
    nodes: Vec<NodeProcess>,
    links: BTreeMap<Conn, Link>,
    last_conn: Conn,
    clients: Vec<Client>,
    messages_left: u64,
    healing: bool,
    busy_at: u64,
    trace: u64,
    steps: u64,
    printing: bool,
    /// What was found.
    pub checker: Checker,
    /// Why the hub refused to go on, which only a newer one may cause.
    pub exits: Vec<String>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// Its faults.
    pub knobs: Knobs,
    /// Folded over every step: equal for equal seeds.
    pub trace: u64,
    /// Steps taken.
    pub steps: u64,
    /// Virtual ms.
    pub ended_ms: u64,
    /// Checks and counts.
    pub checker: Checker,
}

/// Runs one seed to its verdict; `printing` tells every step on stdout.
#[must_use]
pub fn run(seed: u64, printing: bool) -> Verdict {
    let mut prng = Prng::new(seed);
    let knobs = Knobs::of(&mut prng);
    let mut world = World::new(knobs.clone(), prng);
    world.printing = printing;
    world.turn();
    Verdict {
        seed,
        knobs,
        trace: world.trace,
        steps: world.steps,
        ended_ms: world.now_ms,
        checker: world.checker,
    }
}

/// Whether a committed row holds this message, and whether the store has accepted later ones of its sender.
fn holds(store: &MemoryStore, player: &str, id: MessageId) -> (bool, bool) {
    store
        .mailboxes
        .get(player)
        .map_or((false, false), |mailbox| {
            let row = mailbox.rows.iter().any(|row| row.id == id);
            let accepted = mailbox.accepted.get(&id.node_key);
            (row, accepted > Some(&(id.epoch, id.seq)))
        })
}

/// Messages that wait, with their mailbox.
fn waiting(store: &MemoryStore) -> Vec<(String, MessageId)> {
    let rows = |(player, mailbox): (&std::sync::Arc<str>, &MemoryMailbox)| {
        let player = player.to_string();
        let ids: Vec<MessageId> = mailbox.rows.iter().map(|row| row.id).collect();
        ids.into_iter().map(move |id| (player.clone(), id))
    };
    store.mailboxes.iter().flat_map(rows).collect()
}

impl World {
    /// Everything down, nobody online, the faults on the agenda.
    #[must_use]
    pub fn new(knobs: Knobs, prng: Prng) -> Self {
        let names = (0..knobs.senders)
            .map(|n| format!("sender-{n}"))
            .chain((0..knobs.hosts).map(|n| format!("host-{n}")));
        let nodes = names
            .map(|name| NodeProcess {
                name,
                epoch: 0,
                incarnation: 0,
                core: None,
                conn: None,
                timer_at: u64::MAX,
            })
            .collect();
        let clients = (0..knobs.players)
            .map(|n| Client::new(format!("player-{n}")))
            .collect();
        let mut world = Self {
            messages_left: knobs.messages,
            knobs,
            prng,
            agenda: Agenda::default(),
            now_ms: 1,
            hub: None,
            hub_incarnation: 0,
            hub_timer_at: u64::MAX,
            store: MemoryStore::default(),
            store_fails: false,
            nodes,
            links: BTreeMap::new(),
            last_conn: 0,
            clients,
            healing: false,
            busy_at: 0,
            trace: 0,
            steps: 0,
            printing: false,
            checker: Checker::default(),
            exits: Vec::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.later(0, What::HubStart);
        for node in 0..self.nodes.len() {
            let delay = self.prng.below(50);
            self.later(delay, What::NodeStart(node));
        }
        for client in 0..self.clients.len() {
            self.checker.session_begins(&self.clients[client].player);
            let delay = self.prng.below(1_500);
            self.later(delay, What::Attach(client, 0));
        }
        self.later(100, What::Send);
        for fault in FAULTS {
            self.plan(fault);
        }
    }

    fn turn(&mut self) {
        while let Some((at_ms, what)) = self.agenda.take_next() {
            self.steps += 1;
            if !self.healing && at_ms >= self.knobs.faults_until_ms {
                self.heal();
            }
            let idle_ms = at_ms.saturating_sub(self.busy_at);
            let over = at_ms > self.knobs.faults_until_ms + HEAL_MS || self.steps > MAX_STEPS;
            if over || (self.healing && idle_ms > QUIET_MS && self.settled()) {
                break;
            }
            self.now_ms = self.now_ms.max(at_ms);
            self.happen(what);
        }
        let waiting = waiting(&self.store);
        self.checker.end(self.now_ms, &waiting);
    }

    fn settled(&self) -> bool {
        self.messages_left == 0
            && waiting(&self.store).is_empty()
            && self.nodes.iter().all(|node| {
                node.core
                    .as_ref()
                    .is_some_and(|core| core.unreceipted() == 0)
            })
    }

    fn later(&mut self, delay_ms: u64, what: What) {
        self.agenda.add(self.now_ms + delay_ms, what);
    }

    /// Folds a step into the trace: two runs of a seed must agree on every one.
    fn note(&mut self, kind: u64, value: u64) {
        let mixed = self.trace ^ kind.rotate_left(48) ^ value.rotate_left(17) ^ self.now_ms;
        self.trace = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// Prints a step with its messages: what one reads to understand a failed seed.
    fn print(&self, what: &What) {
        let now_ms = self.now_ms;
        match what {
            What::HubIn(conn, frame) | What::NodeIn(conn, frame) => {
                let way = if matches!(what, What::HubIn(..)) {
                    "to hub"
                } else {
                    "to node"
                };
                let node = self.links.get(conn).map(|link| link.node);
                let node = node.map_or("nobody", |node| &self.nodes[node].name);
                for message in decode(frame).flatten() {
                    println!("{now_ms} {way} {conn} ({node}) {message:?}");
                }
            }
            other => println!("{now_ms} {other:?}"),
        }
    }

    fn happen(&mut self, what: What) {
        if self.printing {
            self.print(&what);
        }
        match what {
            What::HubIn(conn, frame) => self.hub_in(conn, &frame),
            What::NodeIn(conn, frame) => self.node_in(conn, &frame),
            What::HubLost(conn) => self.hub_lost(conn),
            What::NodeLost(conn) => self.node_lost(conn),
            What::HubTimer(at) => self.hub_timer(at),
            What::NodeTimer(node, at) => self.node_timer(node, at),
            What::StoreDone(incarnation, batch, fails) => {
                self.store_done(incarnation, &batch, fails);
            }
            What::HubStart => self.hub_start(),
            What::NodeStart(node) => self.node_start(node),
            What::Send => self.send(),
            What::Attach(client, visit) => self.attach(client, visit),
            What::HostHears(client, visit, node, incarnation, said) => {
                self.host_hears(client, visit, node, incarnation, said);
            }
            What::ClientHears(client, visit, heard) => self.client_hears(client, visit, heard),
            What::Fault(fault) => self.fault(fault),
        }
    }

    // --- the hub -------------------------------------------------------------------------------------------------

    fn hub_start(&mut self) {
        if self.hub.is_some() {
            return;
        }
        self.hub_incarnation += 1;
        self.note(1, self.hub_incarnation);
        let config = HubConfig {
            hub_epoch: self.hub_incarnation as u32,
            unix_ms: 1_800_000_000_000 + self.now_ms,
            hash_seed: self.prng.bits(),
            queue_messages: 16,
            sent_messages: 8,
            ..HubConfig::default()
        };
        self.hub = Some(Hub::new(config, self.now_ms));
        self.hub_timer_at = u64::MAX;
        self.drain_hub();
    }

    fn hub_kill(&mut self) {
        if self.hub.take().is_none() {
            return;
        }
        self.note(2, 0);
        let conns: Vec<Conn> = self.links.keys().copied().collect();
        for conn in conns {
            self.sever(conn);
            if let Some(link) = self.links.get_mut(&conn) {
                link.at_hub = false;
            }
        }
        let delay = self.prng.between(5, 6_000);
        self.later(delay, What::HubStart);
    }

    fn hub_in(&mut self, conn: Conn, frame: &[u8]) {
        let Some(link) = self.links.get(&conn) else {
            return;
        };
        if link.severed || !link.at_hub || link.hub_incarnation != self.hub_incarnation {
            return;
        }
        self.note(3, frame.len() as u64);
        if let Some(hub) = self.hub.as_mut() {
            hub.handle_frame(self.now_ms, conn, frame);
            self.drain_hub();
        }
    }

    fn hub_lost(&mut self, conn: Conn) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        let open = std::mem::replace(&mut link.at_hub, false);
        let ours = link.hub_incarnation == self.hub_incarnation;
        self.tidy_link(conn);
        if let Some(hub) = self.hub.as_mut().filter(|_| open && ours) {
            self.trace ^= conn;
            hub.handle_disconnected(self.now_ms, conn);
            self.drain_hub();
        }
    }

    fn hub_timer(&mut self, at: u64) {
        if at != self.hub_timer_at {
            return;
        }
        self.hub_timer_at = u64::MAX;
        if let Some(hub) = self.hub.as_mut() {
            hub.handle_timeout(self.now_ms);
            self.drain_hub();
        }
    }

    fn drain_hub(&mut self) {
        let Some(mut hub) = self.hub.take() else {
            return;
        };
        while let Some(out) = hub.poll_out() {
            match out {
                HubOut::Frame { conn, bytes } => self.send_to_node(conn, bytes),
                HubOut::Close { conn, why } => {
                    self.note(4, why.text.len() as u64);
                    self.close_at_hub(conn);
                }
                HubOut::Exit { why } => self.exits.push(why),
            }
        }
        if let Some(batch) = hub.poll_store(64) {
            let delay = self.prng.between(1, self.knobs.store_ms);
            let fails = std::mem::take(&mut self.store_fails);
            self.later(delay, What::StoreDone(self.hub_incarnation, batch, fails));
        }
        if let Some(at) = hub.poll_timeout() {
            let at = at.max(self.now_ms + 1);
            if at < self.hub_timer_at {
                self.hub_timer_at = at;
                self.agenda.add(at, What::HubTimer(at));
            }
        }
        self.hub = Some(hub);
    }

    /// A batch of a killed hub may have been committed before the kill, or not at all.
    fn store_done(&mut self, incarnation: u64, batch: &StoreBatch, fails: bool) {
        self.note(5, batch.ops.len() as u64);
        let alive = incarnation == self.hub_incarnation && self.hub.is_some();
        let committed = if alive {
            !fails || self.prng.chance(500)
        } else {
            incarnation == self.hub_incarnation && self.prng.chance(500)
        };
        let mut result: Option<Vec<StoreDone>> = None;
        if committed {
            result = Some(self.store.commit(batch));
            self.busy_at = self.now_ms;
        }
        let Some(hub) = self.hub.as_mut().filter(|_| alive) else {
            return;
        };
        let answer = match result {
            Some(done) if !fails => Ok(done),
            _ => Err(StoreError {
                reason: "injected: outcome unknown".into(),
            }),
        };
        let taken = hub.handle_store(self.now_ms, batch.number, answer);
        assert!(taken.is_ok(), "the hub asked for this batch: {taken:?}");
        self.drain_hub();
    }

    // --- links ---------------------------------------------------------------------------------------------------

    fn way(&mut self) -> u64 {
        self.prng.between(1, self.knobs.latency_ms)
    }

    fn send_to_node(&mut self, conn: Conn, bytes: Vec<u8>) {
        let arrives = self.now_ms + self.way();
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        link.to_node_at = link.to_node_at.max(arrives);
        let at = link.to_node_at;
        self.agenda.add(at, What::NodeIn(conn, bytes));
    }

    fn send_to_hub(&mut self, conn: Conn, bytes: Vec<u8>) {
        let arrives = self.now_ms + self.way();
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        link.to_hub_at = link.to_hub_at.max(arrives);
        let at = link.to_hub_at;
        self.agenda.add(at, What::HubIn(conn, bytes));
    }

    /// Loses what is under way in both lanes; each end notices when it notices.
    fn sever(&mut self, conn: Conn) {
        let (hub_ms, node_ms) = (
            self.prng.below(self.knobs.notice_ms),
            self.prng.below(self.knobs.notice_ms),
        );
        if let Some(link) = self.links.get_mut(&conn).filter(|link| !link.severed) {
            link.severed = true;
            self.later(hub_ms, What::HubLost(conn));
            self.later(node_ms, What::NodeLost(conn));
        }
    }

    fn close_at_hub(&mut self, conn: Conn) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.at_hub = false;
            let at = link.to_node_at.max(self.now_ms);
            if !link.severed {
                self.agenda.add(at, What::NodeLost(conn));
            }
        }
        self.tidy_link(conn);
    }

    fn close_at_node(&mut self, conn: Conn) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.at_node = false;
            let at = link.to_hub_at.max(self.now_ms);
            if !link.severed {
                self.agenda.add(at, What::HubLost(conn));
            }
        }
        self.tidy_link(conn);
    }

    fn tidy_link(&mut self, conn: Conn) {
        if self
            .links
            .get(&conn)
            .is_some_and(|link| !link.at_hub && !link.at_node)
        {
            self.links.remove(&conn);
        }
    }

    // --- nodes ---------------------------------------------------------------------------------------------------

    fn node_start(&mut self, node: usize) {
        if self.nodes[node].core.is_some() {
            return;
        }
        self.note(6, node as u64);
        let process = &mut self.nodes[node];
        process.epoch = (process.epoch + 1).max(self.now_ms);
        process.incarnation += 1;
        process.timer_at = u64::MAX;
        let config = NodeConfig {
            name: process.name.clone(),
            epoch: process.epoch,
            connection: self.now_ms,
            roles: Vec::new(),
            next_seq: 1,
        };
        process.core = Node::new(config, self.now_ms).ok();
        assert!(process.core.is_some(), "the name is good");
        self.drain_node(node);
    }

    fn node_kill(&mut self, node: usize) {
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
        let delay = self.prng.between(5, 12_000);
        self.later(delay, What::NodeStart(node));
    }

    fn node_of(&self, conn: Conn) -> Option<usize> {
        let link = self.links.get(&conn).filter(|link| link.at_node)?;
        let process = &self.nodes[link.node];
        (process.incarnation == link.node_incarnation && process.conn == Some(conn))
            .then_some(link.node)
    }

    fn node_in(&mut self, conn: Conn, frame: &[u8]) {
        if self.links.get(&conn).is_none_or(|link| link.severed) {
            return;
        }
        let Some(node) = self.node_of(conn) else {
            return;
        };
        self.note(8, frame.len() as u64);
        let (now_ms, random) = (self.now_ms, self.prng.bits());
        if let Some(core) = self.nodes[node].core.as_mut() {
            core.handle_frame(now_ms, random, frame);
        }
        self.drain_node(node);
    }

    fn node_lost(&mut self, conn: Conn) {
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

    fn node_timer(&mut self, node: usize, at: u64) {
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

    fn connect(&mut self, node: usize) {
        self.last_conn += 1;
        let conn = self.last_conn;
        self.nodes[node].conn = Some(conn);
        let at_hub = self.hub.is_some();
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
            },
        );
        if let Some(hub) = self.hub.as_mut() {
            hub.handle_connected(self.now_ms, conn, Peer::default());
            self.drain_hub();
        } else {
            let delay = self.way();
            self.later(delay, What::NodeLost(conn));
        }
    }

    fn drain_node(&mut self, node: usize) {
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

    fn obey(&mut self, node: usize, event: NodeEvent) {
        match event {
            NodeEvent::Connect => self.connect(node),
            NodeEvent::Close { .. } => {
                if let Some(conn) = self.nodes[node].conn.take() {
                    self.close_at_node(conn);
                }
            }
            NodeEvent::Receipt { seq, outcome, .. } => {
                let id = self.id(node, seq);
                let players = self.checker.recipients(id);
                for player in players {
                    let stored = holds(&self.store, &player, id);
                    self.checker
                        .receipt(self.now_ms, id, &player, outcome, stored);
                }
                self.busy_at = self.now_ms;
            }
            NodeEvent::Report { seq, report } => {
                let id = self.id(node, seq);
                for (player, (outcome, _)) in report.players {
                    self.checker.sent(id, &player);
                    let stored = holds(&self.store, &player, id);
                    self.checker
                        .receipt(self.now_ms, id, &player, outcome, stored);
                }
                self.checker.reported(id);
                self.busy_at = self.now_ms;
            }
            NodeEvent::Message { player, id, .. } => {
                self.tell_client(node, &player, Heard::Message(id));
            }
            NodeEvent::Bound { player, login } => {
                self.tell_client(node, &player, Heard::Bound(login));
                if let Some(core) = self.nodes[node].core.as_mut() {
                    let _ = core.member(true, false, GROUP, &player);
                }
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

    fn id(&self, node: usize, seq: u64) -> MessageId {
        MessageId {
            node_key: node_key(&self.nodes[node].name),
            epoch: self.nodes[node].epoch,
            seq,
        }
    }

    // --- clients -------------------------------------------------------------------------------------------------

    fn tell_client(&mut self, node: usize, player: &str, heard: Heard) {
        let Some(client) = self
            .clients
            .iter()
            .position(|client| client.player == player)
        else {
            return;
        };
        if self.clients[client].is_at(node) {
            let arrives = self.now_ms + self.way();
            let at = self.clients[client].hears_at(arrives);
            let visit = self.clients[client].visit;
            self.agenda.add(at, What::ClientHears(client, visit, heard));
        }
    }

    fn tell_host(&mut self, client: usize, said: Said) {
        let Place::At { node, incarnation } = self.clients[client].place else {
            return;
        };
        let arrives = self.now_ms + self.way();
        let at = self.clients[client].speaks_at(arrives);
        let visit = self.clients[client].visit;
        self.agenda
            .add(at, What::HostHears(client, visit, node, incarnation, said));
    }

    fn attach(&mut self, client: usize, visit: u64) {
        if self.clients[client].visit != visit || self.clients[client].place != Place::Away {
            return;
        }
        let node = self.knobs.senders + self.prng.index(self.knobs.hosts);
        let incarnation = self.nodes[node].incarnation;
        let state = &self.clients[client];
        let (player, login, cursor) = (state.player.clone(), state.login, state.cursor.clone());
        let attached = self.nodes[node]
            .core
            .as_mut()
            .map(|core| core.attach(&player, login, cursor));
        self.note(9, node as u64);
        let now_ms = self.now_ms;
        let Some(Ok(attached)) = attached else {
            let delay = self.prng.between(20, 400);
            return self.later(delay, What::Attach(client, visit));
        };
        self.clients[client].arrive(now_ms, node, incarnation);
        if let Attached::Resumed(pending) = attached {
            for delivery in pending {
                self.tell_client(node, &player, Heard::Message(delivery.id));
            }
        } else {
            self.clients[client].login = 0;
        }
        if self.clients[client].leaving {
            self.tell_host(client, Said::Leave);
        }
        self.drain_node(node);
    }

    /// What the host's game does: it hears only the connection that the player has now.
    fn host_hears(&mut self, client: usize, visit: u64, node: usize, incarnation: u64, said: Said) {
        if self.nodes[node].incarnation != incarnation {
            return;
        }
        // A newer visit to the same node replaced the connection; to another node, the old host can't know.
        let state = &self.clients[client];
        if state.is_at(node) && state.visit != visit {
            return;
        }
        let (player, now_ms) = (state.player.clone(), self.now_ms);
        let Some(core) = self.nodes[node].core.as_mut() else {
            return;
        };
        match said {
            Said::Handled(id) => core.handled(&player, id),
            Said::Gone => core.detach(now_ms, &player),
            Said::Leave => {
                core.leave_player(&player);
            }
        }
        self.drain_node(node);
    }

    fn client_hears(&mut self, client: usize, visit: u64, heard: Heard) {
        if self.clients[client].visit != visit {
            return;
        }
        match heard {
            Heard::Bound(login) => self.clients[client].login = login,
            // Who has asked to leave handles nothing more: the logout carries the cursor of that moment [30, 31].
            Heard::Message(_) if self.clients[client].leaving => {}
            Heard::Message(id) => {
                if !self.clients[client].cursor.covers(id) {
                    self.clients[client].cursor.raise(id);
                    self.note(10, id.seq);
                    self.busy_at = self.now_ms;
                    let player = self.clients[client].player.clone();
                    self.checker.handled(self.now_ms, &player, id);
                }
                let wait = self.prng.between(0, self.knobs.ack_ms);
                self.clients[client].waits(self.now_ms + wait);
                self.tell_host(client, Said::Handled(id));
            }
            Heard::Forget(up_to) => self.clients[client].cursor.forget(up_to),
            Heard::LoggedOut => self.logged_out(client),
            Heard::Closed => {
                self.clients[client].depart();
                self.come_back(client, 500);
            }
        }
    }

    fn logged_out(&mut self, client: usize) {
        if self.clients[client].leaving {
            let player = self.clients[client].player.clone();
            self.checker.session_left(&player);
            self.checker.session_begins(&player);
            self.clients[client].forget_everything();
        }
        self.clients[client].depart();
        self.come_back(client, 2_000);
    }

    fn come_back(&mut self, client: usize, within_ms: u64) {
        let delay = self.prng.between(1, within_ms);
        let visit = self.clients[client].visit;
        self.later(delay, What::Attach(client, visit));
    }

    // --- workload and faults ---------------------------------------------------------------------------------------

    fn send(&mut self) {
        if self.messages_left == 0 {
            return;
        }
        let node = self.prng.index(self.knobs.senders);
        let player = self.prng.index(self.clients.len());
        let to_group = self.prng.chance(self.knobs.group_per_mille);
        if let Some(core) = self.nodes[node].core.as_mut() {
            let player = self.clients[player].player.clone();
            let recipient = if to_group {
                Recipient::Group(GROUP.into())
            } else {
                Recipient::Player(player.clone())
            };
            if let Ok(seq) = core.send(recipient, Content::Bytes, b"payload", None) {
                self.messages_left -= 1;
                let id = self.id(node, seq);
                if to_group {
                    self.checker.sent_to_group(id);
                } else {
                    self.checker.sent(id, &player);
                }
            }
            self.drain_node(node);
        }
        let span = 2 * self.knobs.faults_until_ms * 3 / 4 / self.knobs.messages.max(1);
        let delay = self.prng.below(span.max(1) + 1);
        self.later(delay, What::Send);
    }

    fn mean_ms(&self, fault: Fault) -> u64 {
        let knobs = &self.knobs;
        match fault {
            Fault::HubKill => knobs.hub_kill_ms,
            Fault::NodeKill => knobs.node_kill_ms,
            Fault::SenderKill => knobs.sender_kill_ms,
            Fault::Cut => knobs.cut_ms,
            Fault::Move => knobs.move_ms,
            Fault::Vanish => knobs.vanish_ms,
            Fault::Leave => knobs.leave_ms,
            Fault::StoreFail => knobs.store_fail_ms,
        }
    }

    fn plan(&mut self, fault: Fault) {
        let mean = self.mean_ms(fault);
        if mean > 0 {
            let delay = self.prng.between(1, 2 * mean);
            self.later(delay, What::Fault(fault));
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.healing {
            return;
        }
        self.plan(fault);
        self.note(11, fault as u64);
        let client = self.prng.index(self.clients.len());
        match fault {
            Fault::HubKill => self.hub_kill(),
            Fault::NodeKill => {
                let node = self.knobs.senders + self.prng.index(self.knobs.hosts);
                self.node_kill(node);
            }
            Fault::SenderKill => {
                let node = self.prng.index(self.knobs.senders);
                self.node_kill(node);
            }
            Fault::Cut => {
                let conns: Vec<Conn> = self.links.keys().copied().collect();
                if !conns.is_empty() {
                    let conn = conns[self.prng.index(conns.len())];
                    self.sever(conn);
                }
            }
            Fault::Move | Fault::Vanish => {
                if self.clients[client].place == Place::Away {
                    return;
                }
                // The old host learns of it late, if it lives.
                self.tell_host(client, Said::Gone);
                self.clients[client].depart();
                let within_ms = if fault == Fault::Move { 20 } else { 90_000 };
                self.come_back(client, within_ms);
            }
            Fault::Leave => {
                if self.clients[client].place != Place::Away && !self.clients[client].leaving {
                    self.clients[client].leaving = true;
                    self.tell_host(client, Said::Leave);
                }
            }
            Fault::StoreFail => self.store_fails = true,
        }
    }

    fn heal(&mut self) {
        self.healing = true;
        self.store_fails = false;
        self.busy_at = self.now_ms;
    }
}
