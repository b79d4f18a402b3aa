//! Scenarios of BUS.md section 12, as far as the hub alone can show them: driven by encoded frames,
//! with a store in memory that commits when the test says so.

mod groups;
mod hosting;
mod links;
mod mailbox;
mod observe;
mod policies;
mod random;
mod requests;
mod time;

use super::*;
use crate::bus::codec::decode;
use crate::bus::memory_store::MemoryStore;
use crate::bus::message::{
    Ack, Claim, Content, Hello, Mark, Message, MessageId, Number, Outcome, Policy, Send, Target,
    node_key,
};

/// A hub, its store, and what each connection has received and not looked at.
pub struct World {
    pub hub: Hub,
    pub store: MemoryStore,
    pub now: u64,
    pub received: std::collections::BTreeMap<Conn, Vec<u8>>,
    pub closed: Vec<(Conn, CloseReason)>,
    pub exits: Vec<String>,
    /// Batches are committed at once; else only by `commit`.
    pub auto: bool,
    under_way: Option<StoreBatch>,
    connections: u64,
}

pub fn small(hub_epoch: u32) -> HubConfig {
    HubConfig {
        hub_epoch,
        queue_messages: 4,
        sent_messages: 4,
        ..HubConfig::default()
    }
}

/// A world with a sender, a host, and the player `p` known and offline.
pub fn known() -> (World, Node, Node) {
    let mut world = World::new();
    let (sender, host) = world.known();
    (world, sender, host)
}

impl World {
    pub fn new() -> Self {
        Self::with(small(1), MemoryStore::default())
    }

    pub fn with(config: HubConfig, store: MemoryStore) -> Self {
        let mut world = Self {
            hub: Hub::new(config, 1_000),
            store,
            now: 1_000,
            received: Default::default(),
            closed: Vec::new(),
            exits: Vec::new(),
            auto: true,
            under_way: None,
            connections: 0,
        };
        world.run();
        world
    }

    /// Kills the hub and starts another on what was committed.
    pub fn restart(self) -> Self {
        let mut config = self.hub.config;
        config.hub_epoch += 1;
        let mut next = Self::with(config, self.store);
        next.connections = self.connections;
        next
    }

    /// Everything that can happen now.
    pub fn run(&mut self) {
        loop {
            let mut idle = true;
            while let Some(out) = self.hub.poll_out() {
                idle = false;
                match out {
                    HubOut::Frame { conn, bytes } => {
                        self.received.entry(conn).or_default().extend(bytes)
                    }
                    HubOut::Close { conn, why } => self.closed.push((conn, why)),
                    HubOut::Exit { why } => self.exits.push(why),
                }
            }
            if self.auto && self.commit() {
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    /// Takes a batch, if there is one and none is under way.
    pub fn issue(&mut self) -> Option<&StoreBatch> {
        if self.under_way.is_none() {
            self.under_way = self.hub.poll_store(1_000);
        }
        self.under_way.as_ref()
    }

    /// Commits one batch and completes it.
    pub fn commit(&mut self) -> bool {
        self.issue();
        let Some(batch) = self.under_way.take() else {
            return false;
        };
        let done = self.store.commit(&batch);
        self.hub
            .handle_store(self.now, batch.number, Ok(done))
            .unwrap();
        true
    }

    /// The batch under way fails; `committed`: but it was committed.
    pub fn fail(&mut self, committed: bool) {
        self.issue();
        let batch = self.under_way.take().expect("a batch");
        if committed {
            self.store.commit(&batch);
        }
        let error = StoreError {
            reason: "cut".into(),
        };
        self.hub
            .handle_store(self.now, batch.number, Err(error))
            .unwrap();
        self.run();
    }

    pub fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(at) = self.hub.poll_timeout().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.hub.handle_timeout(self.now);
            self.run();
        }
        self.now = until;
    }

    /// Time passes, and these nodes are heard.
    pub fn pass_with(&mut self, nodes: &[&Node], ms: u64) {
        let mut left = ms;
        while left > 0 {
            let step = left.min(500);
            for node in nodes {
                self.say(node, &Message::Ping { nonce: 0, low: 0 });
            }
            self.pass(step);
            left -= step;
        }
    }

    pub fn connect(&mut self) -> Conn {
        self.connections += 1;
        self.hub
            .handle_connected(self.now, self.connections, Peer::default());
        self.connections
    }

    pub fn say_raw(&mut self, conn: Conn, message: &Message<'_>) {
        let mut frame = Vec::new();
        message.encode(&mut frame).unwrap();
        self.hub.handle_frame(self.now, conn, &frame);
        self.run();
    }

    pub fn say(&mut self, node: &Node, message: &Message<'_>) {
        self.say_raw(node.conn, message);
    }

    /// A node that is back after this: nothing registered yet.
    pub fn hello(&mut self, name: &'static str, epoch: u64) -> Node {
        self.hello_as(name, epoch, &["echo"])
    }

    pub fn hello_as(&mut self, name: &'static str, epoch: u64, roles: &[&str]) -> Node {
        self.hello_of(name, epoch, roles, crate::bus::message::features::ALL)
    }

    /// A node that can do only so much, registered.
    pub fn hello_with(&mut self, name: &'static str, epoch: u64, features: u64) -> Node {
        self.hello_of(name, epoch, &[], features)
    }

    fn hello_of(&mut self, name: &'static str, epoch: u64, roles: &[&str], features: u64) -> Node {
        let conn = self.connect();
        let node = Node { name, conn, epoch };
        let hello = Hello {
            version_min: 1,
            version_max: 2,
            node_key: node_key(name),
            epoch,
            connection: conn,
            highest_hub_epoch: 0,
            low: 0,
            features,
            name,
            roles: roles.into(),
        };
        self.say_raw(conn, &Message::Hello(hello));
        node
    }

    /// A node without players.
    pub fn node(&mut self, name: &'static str, epoch: u64) -> Node {
        let node = self.hello(name, epoch);
        self.say(
            &node,
            &Message::Register {
                claims: (&[]).into(),
                last: true,
            },
        );
        node
    }

    /// A sender, a host, and `p`, known and offline.
    pub fn known(&mut self) -> (Node, Node) {
        let (sender, host) = (self.node("sender", 1), self.node("host", 1));
        let (login, _) = self.login(&host, "p");
        self.logout(&host, "p", login, &[]);
        self.take(&host);
        (sender, host)
    }

    pub fn drop_link(&mut self, node: &Node) {
        self.hub.handle_disconnected(self.now, node.conn);
        self.run();
    }

    /// Login and binding.
    pub fn login(&mut self, node: &Node, player: &str) -> (u64, u64) {
        self.say(
            node,
            &Message::Login {
                claims: (&[Claim {
                    player,
                    login: 0,
                    request: 1,
                }])
                    .into(),
            },
        );
        self.bound(node).expect("bound")
    }

    /// Login and binding, or none if it was not bound.
    pub fn register(
        &mut self,
        node: &Node,
        player: &str,
        login: u64,
        last: bool,
    ) -> Option<(u64, u64)> {
        self.say(
            node,
            &Message::Register {
                claims: (&[Claim {
                    player,
                    login,
                    request: 2,
                }])
                    .into(),
                last,
            },
        );
        self.bound(node)
    }

    fn bound(&self, node: &Node) -> Option<(u64, u64)> {
        let mut last = None;
        for message in decode(self.received.get(&node.conn)?) {
            if let Ok(Message::Bound { bound }) = message {
                last = bound
                    .iter()
                    .last()
                    .map(|bound| (bound.login, bound.binding));
            }
        }
        last
    }

    pub fn send(&mut self, node: &Node, seq: u64, player: &str) {
        self.send_as(node, seq, Target::Player(player), false);
    }

    pub fn resend(&mut self, node: &Node, seq: u64, player: &str) {
        self.send_as(node, seq, Target::Player(player), true);
    }

    pub fn send_as(&mut self, node: &Node, seq: u64, target: Target<'_>, resend: bool) {
        let payload = seq.to_le_bytes();
        let (policy, content) = (Policy::MustDeliver, Content::Bytes);
        let send = Send {
            seq,
            low: 0,
            deadline_ms: 0,
            deliver_at_ms: 0,
            policy,
            resend,
            quiet: false,
            trace: false,
            content,
            target,
            key: "",
            payload: &payload,
        };
        self.say(node, &Message::Send(send));
    }

    pub fn ack(&mut self, node: &Node, binding: u64, up_to: u32) {
        self.say(
            node,
            &Message::Ack {
                acks: (&[Ack { binding, up_to }]).into(),
            },
        );
    }

    pub fn logout(&mut self, node: &Node, player: &str, login: u64, cursor: &[Mark]) {
        self.say(
            node,
            &Message::Logout {
                player,
                login,
                cursor: cursor.into(),
            },
        );
    }

    /// What a node received since the last look: deliveries, as (number, seq).
    pub fn take(&mut self, node: &Node) -> Received {
        let bytes = self.received.remove(&node.conn).unwrap_or_default();
        let mut all = Received::default();
        for message in decode(&bytes) {
            match message.expect("the hub writes what can be read") {
                Message::Deliver(deliver) => {
                    all.delivers += 1;
                    for Number { binding, number } in deliver.targets {
                        all.delivered.push((binding, number, deliver.id.seq));
                    }
                }
                Message::Receipt { receipts } => {
                    all.receipts.extend(
                        receipts
                            .iter()
                            .map(|r| (r.seq, r.outcome, r.detail.to_string())),
                    );
                }
                Message::Drop { player, login, .. } => all.dropped.push((player.into(), login)),
                Message::LogoutDone { player, login } => {
                    all.logged_out.push((player.into(), login))
                }
                Message::Forget { up_to, .. } => all.forgotten.push(up_to),
                Message::Error { code, .. } => all.error = Some(code),
                Message::GroupReport(report) => {
                    let entries = report
                        .entries
                        .iter()
                        .map(|e| (e.player.to_string(), e.outcome))
                        .collect();
                    all.reports.push((report.seq, report.counts, entries));
                }
                other => all.others.push(format!("{other:?}")),
            }
        }
        all
    }
}

/// A node as the hub sees it.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: &'static str,
    pub conn: Conn,
    pub epoch: u64,
}

impl Node {
    pub fn id(&self, seq: u64) -> MessageId {
        MessageId {
            node_key: node_key(self.name),
            epoch: self.epoch,
            seq,
        }
    }
}

/// Seq, counts by outcome, entries.
pub type ReportSeen = (u64, [u32; 8], Vec<(String, Outcome)>);

#[derive(Debug, Default, PartialEq)]
pub struct Received {
    /// Binding, number, seq.
    pub delivered: Vec<(u64, u32, u64)>,
    pub delivers: usize,
    pub receipts: Vec<(u64, Outcome, String)>,
    pub dropped: Vec<(String, u64)>,
    pub logged_out: Vec<(String, u64)>,
    pub forgotten: Vec<Mark>,
    pub reports: Vec<ReportSeen>,
    pub error: Option<ErrorCode>,
    pub others: Vec<String>,
}

impl Received {
    pub fn seqs(&self) -> Vec<u64> {
        self.delivered.iter().map(|(_, _, seq)| *seq).collect()
    }

    pub fn outcomes(&self) -> Vec<(u64, Outcome)> {
        self.receipts
            .iter()
            .map(|(seq, outcome, _)| (*seq, *outcome))
            .collect()
    }
}
