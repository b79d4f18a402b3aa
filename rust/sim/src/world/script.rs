//! A world by hand: a test says what happens, step by step, and nothing happens by chance or comes back by itself.
//!
//! Time passes only in [`Script::run`] and [`Script::until`]. Gates hold what is on its way: to the hub, to a node,
//! from a client, from the store.

mod gates;
mod senders;

use super::World;
use super::what::Said;
use crate::checker::Violation;
use crate::client::Place;
use crate::knobs::Knobs;
use crate::prng::Prng;
use crate::variant::Variant;
use std::collections::BTreeSet;
use zmqgame_core::bus::hub::{Conn, Hub};
use zmqgame_core::bus::memory_store::MemoryStore;
use zmqgame_core::bus::message::{MessageId, Outcome};
use zmqgame_core::bus::node::Node;
use zmqgame_core::bus::store::StoreBatch;

/// What a script holds back, and what it has seen.
#[derive(Debug, Default)]
pub(super) struct Gates {
    pub(super) store_held: bool,
    pub(super) store: Vec<(u64, StoreBatch, bool)>,
    /// Whether a batch without answer was committed.
    pub(super) late_commit: bool,
    pub(super) mute: BTreeSet<usize>,
    pub(super) unsaid: Vec<(usize, MessageId)>,
    pub(super) handled: Vec<(usize, MessageId)>,
    /// The hub is killed when so many more batches are to be answered; that one was committed, or not.
    pub(super) kill_in: Option<u64>,
    /// Nodes that can't connect.
    pub(super) blocked: BTreeSet<usize>,
}

/// A wait for something is given up after this virtual time: longer than any grace of the bus.
const PATIENCE_MS: u64 = 200_000;

/// The world and whoever directs it.
pub struct Script {
    world: World,
}

impl Script {
    /// A hub, senders and hosts, all linked; players' clients that are away.
    #[must_use]
    pub fn new(senders: usize, hosts: usize, players: usize) -> Self {
        Self::with(Knobs::calm(senders, hosts, players), Variant::default())
    }

    /// The same with other bounds, or without a rule.
    #[must_use]
    pub fn with(knobs: Knobs, variant: Variant) -> Self {
        let mut world = World::bare(knobs, Prng::new(1), variant);
        world.script = Some(Gates::default());
        let mut script = Self { world };
        script.start_hub();
        for node in 0..script.world.nodes.len() {
            script.start_node(node);
        }
        script.until("all nodes are linked", Self::all_linked);
        script
    }

    // --- time ----------------------------------------------------------------------------------------------------

    /// Lets virtual time pass.
    pub fn run(&mut self, ms: u64) {
        let end_ms = self.world.now_ms + ms;
        while self.world.agenda.next_at().is_some_and(|at| at <= end_ms) {
            self.step();
        }
        self.world.now_ms = end_ms;
    }

    /// Lets time pass until something is so.
    ///
    /// # Panics
    /// When it never comes to be so.
    pub fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let end_ms = self.world.now_ms + PATIENCE_MS;
        while !so(self) {
            let next = self.world.agenda.next_at().filter(|at| *at <= end_ms);
            assert!(next.is_some(), "never: {what}");
            self.step();
        }
    }

    fn step(&mut self) {
        if let Some((at_ms, what)) = self.world.agenda.take_next() {
            self.world.now_ms = self.world.now_ms.max(at_ms);
            self.world.happen(what);
        }
    }

    /// Virtual ms.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.world.now_ms
    }

    // --- who -----------------------------------------------------------------------------------------------------

    /// The node that is this host.
    #[must_use]
    pub fn host(&self, number: usize) -> usize {
        self.world.knobs.senders + number
    }

    /// A node's core, if its process lives.
    #[must_use]
    pub fn node(&mut self, node: usize) -> Option<&mut Node> {
        self.world.nodes[node].core.as_mut()
    }

    /// The hub, if its process lives.
    #[must_use]
    pub fn hub(&self) -> Option<&Hub> {
        self.world.hub.as_ref()
    }

    /// The store, committed state only.
    pub fn store(&mut self) -> &mut MemoryStore {
        &mut self.world.store
    }

    /// Ids of the rows of a player, in order.
    #[must_use]
    pub fn rows(&self, client: usize) -> Vec<MessageId> {
        let rows = self.world.store.rows(&self.world.clients[client].player);
        rows.iter().map(|row| row.id).collect()
    }

    /// What a client handled, in order, over all its sessions.
    #[must_use]
    pub fn handled(&self, client: usize) -> Vec<MessageId> {
        let of_client = |(other, id): &(usize, MessageId)| (*other == client).then_some(*id);
        self.gates().handled.iter().filter_map(of_client).collect()
    }

    /// The login that a client was told, 0 for none.
    #[must_use]
    pub fn login(&self, client: usize) -> u64 {
        self.world.clients[client].login
    }

    /// Whether a client has a connection.
    #[must_use]
    pub fn is_away(&self, client: usize) -> bool {
        self.world.clients[client].place == Place::Away
    }

    /// The last receipt for a message to this client's player.
    #[must_use]
    pub fn receipt(&self, id: MessageId, client: usize) -> Option<Outcome> {
        let player = &self.world.clients[client].player;
        self.world.checker.outcome(id, player)
    }

    fn gates(&self) -> &Gates {
        self.world.script.as_ref().expect("this world has a script")
    }

    fn gates_mut(&mut self) -> &mut Gates {
        self.world.script.as_mut().expect("this world has a script")
    }

    fn all_linked(&self) -> bool {
        let up = |node: &super::NodeProcess| node.core.as_ref().is_some_and(Node::is_up);
        self.world.nodes.iter().all(up)
    }

    // --- clients -------------------------------------------------------------------------------------------------

    /// A client connects to a host, with what it knows; its answer comes later.
    pub fn attach(&mut self, client: usize, host: usize) {
        let node = self.host(host);
        self.world.attach_at(client, node);
    }

    /// The same, until its login is there.
    pub fn online(&mut self, client: usize, host: usize) {
        let before = self.login(client);
        self.attach(client, host);
        self.until("the client has its login", |script| {
            script.login(client) != before
        });
        self.run(20);
    }

    /// A client's connection ends, and its host hears of it.
    pub fn depart(&mut self, client: usize) {
        self.world.tell_host(client, Said::Gone);
        self.world.clients[client].depart();
    }

    /// A client's connection ends, and its host does not hear of it.
    pub fn vanish(&mut self, client: usize) {
        self.world.clients[client].depart();
    }

    /// A client begins to leave for good.
    pub fn leave(&mut self, client: usize) {
        self.world.clients[client].leaving = true;
        self.world.tell_host(client, Said::Leave);
    }

    /// The same, until it is confirmed.
    pub fn left(&mut self, client: usize) {
        self.leave(client);
        self.until("the client has left", |script| script.is_away(client));
    }

    /// A client that handles and does not say so.
    pub fn hold_acks(&mut self, client: usize) {
        self.gates_mut().mute.insert(client);
    }

    /// It says so now, if it is still where it was.
    pub fn release_acks(&mut self, client: usize) {
        let gates = self.gates_mut();
        gates.mute.remove(&client);
        let unsaid = std::mem::take(&mut gates.unsaid);
        for (of, id) in unsaid {
            if of == client {
                self.world.tell_host(client, Said::Handled(id));
            } else {
                self.gates_mut().unsaid.push((of, id));
            }
        }
    }

    // --- processes -----------------------------------------------------------------------------------------------

    /// A hub starts, if none runs.
    pub fn start_hub(&mut self) {
        self.world.hub_start();
    }

    /// kill -9 of the hub.
    pub fn kill_hub(&mut self) {
        self.world.hub_kill();
    }

    /// kill -9, and a start; until every living node is linked again and the hold is over.
    pub fn restart_hub(&mut self) {
        self.kill_hub();
        self.start_hub();
        self.until("all nodes are linked again", Self::all_linked);
        self.run(100);
    }

    /// The same with one node that is dead or kept out.
    pub fn restart_hub_without(&mut self, node: usize) {
        self.kill_hub();
        self.start_hub();
        self.until("the other nodes are linked again", |s| {
            (0..s.world.nodes.len()).all(|other| other == node || s.is_linked(other))
        });
    }

    /// A node's process starts.
    pub fn start_node(&mut self, node: usize) {
        self.world.node_start(node);
    }

    /// A process of an older epoch, or of any: as with a folder that was restored.
    pub fn start_node_of_epoch(&mut self, node: usize, epoch: u64) {
        self.world.node_start_as(node, epoch);
    }

    /// A node's epoch.
    #[must_use]
    pub fn epoch(&self, node: usize) -> u64 {
        self.world.nodes[node].epoch
    }

    /// A node says bye, if nothing waits, and its process ends.
    pub fn stop_node(&mut self, node: usize) {
        if let Some(core) = self.world.nodes[node].core.as_mut() {
            core.handle_close();
        }
        self.world.drain_node(node);
        self.run(10);
        self.kill_node(node);
    }

    /// What hub and nodes were told as a reason to end.
    #[must_use]
    pub fn exits(&self) -> &[String] {
        &self.world.exits
    }

    /// kill -9 of a node; its connection is found broken at once by the hub.
    pub fn kill_node(&mut self, node: usize) {
        self.world.node_kill(node);
    }

    /// A node can't connect until it is let in.
    pub fn keep_out(&mut self, node: usize) {
        self.gates_mut().blocked.insert(node);
    }

    /// It can again.
    pub fn let_in(&mut self, node: usize) {
        self.gates_mut().blocked.remove(&node);
    }

    /// Whether a node is linked.
    #[must_use]
    pub fn is_linked(&self, node: usize) -> bool {
        let core = self.world.nodes[node].core.as_ref();
        core.is_some_and(Node::is_up)
    }

    // --- findings ------------------------------------------------------------------------------------------------

    /// Something that the promises do not name and that this world by hand is to show.
    pub fn claim(&mut self, rule: &'static str, holds: bool, text: &str) {
        if !holds {
            let now_ms = self.world.now_ms;
            self.world.checker.fail(now_ms, rule, text.to_owned());
        }
    }

    // --- the end -------------------------------------------------------------------------------------------------

    /// All heals, every player comes online: what is found then to be untrue.
    #[must_use]
    pub fn verdict(mut self) -> Vec<Violation> {
        self.heal();
        let mut quiet_ms = 0;
        for _ in 0..PATIENCE_MS / 100 {
            self.everyone_online();
            self.run(100);
            quiet_ms = if self.world.settled() {
                quiet_ms + 100
            } else {
                0
            };
            if quiet_ms > 5_000 {
                break;
            }
        }
        self.world.end();
        std::mem::take(&mut self.world.checker.violations)
    }

    /// The same, and nothing may be found.
    ///
    /// # Panics
    /// When something is.
    pub fn end(self) {
        let found = self.verdict();
        assert!(found.is_empty(), "{found:?}");
    }

    fn heal(&mut self) {
        self.world.heal();
        self.gates_mut().kill_in = None;
        self.gates_mut().blocked.clear();
        self.release_store();
        self.start_hub();
        for node in 0..self.world.nodes.len() {
            self.start_node(node);
        }
        let conns: Vec<Conn> = self.world.links.keys().copied().collect();
        for conn in conns {
            self.release_to_hub(conn);
            self.release_to_node(conn);
        }
        for client in 0..self.world.clients.len() {
            self.release_acks(client);
        }
    }

    fn everyone_online(&mut self) {
        for client in 0..self.world.clients.len() {
            if self.is_away(client) {
                self.attach(client, 0);
            }
        }
    }
}
