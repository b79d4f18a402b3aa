//! One run: hub, nodes, clients, store and network in one thread on one virtual clock.
//!
//! What happens next is the entry of the agenda with the smallest (time, order). A link is two FIFO lanes; a cut
//! loses what is under way in both, and each end notices at its own time. A killed process loses everything but
//! what the store has committed and what clients remember.

mod clients;
mod faults;
mod hub;
mod links;
mod nodes;
mod rows;
pub mod script;
mod stop;
mod what;
mod workload;

use crate::agenda::Agenda;
use crate::checker::Checker;
use crate::client::{Client, Place};
use crate::knobs::Knobs;
use crate::loose::Loose;
use crate::prng::Prng;
use crate::variant::Variant;
use links::Link;
use nodes::NodeProcess;
use script::Gates;
use std::collections::BTreeMap;
use what::{FAULTS, What};
use zmqgame_core::bus::codec::decode;
use zmqgame_core::bus::hub::{Conn, Hub};
use zmqgame_core::bus::memory_store::{Deferred, MemoryMailbox, MemoryStore};
use zmqgame_core::bus::message::{MessageId, node_key};

/// The group that every hosted player joins.
const GROUP: &str = "everyone";
/// The group that every second player joins for good.
const CLUB: &str = "club";
/// The hub's wall clock at the virtual time 0.
const WALL_MS: u64 = 1_800_000_000_000;
/// After the faults something must happen within this time until everything has come in: client grace, node grace and
/// store waits fit in.
const HEAL_MS: u64 = 180_000;
/// Nothing may happen for so long before a run counts as quiet.
const QUIET_MS: u64 = 10_000;
/// Steps of one run: a run that needs more is going in circles.
const MAX_STEPS: u64 = 20_000_000;

/// The state of a run.
pub struct World {
    knobs: Knobs,
    variant: Variant,
    prng: Prng,
    agenda: Agenda<What>,
    now_ms: u64,
    hub: Option<Hub>,
    hub_incarnation: u64,
    hub_timer_at: u64,
    store: MemoryStore,
    /// A batch is under way.
    store_busy: bool,
    store_fails: bool,
    store_away_until: u64,
    /// What the hub's wall clock shows at the virtual time 0.
    wall_ms: u64,
    nodes: Vec<NodeProcess>,
    links: BTreeMap<Conn, Link>,
    last_conn: Conn,
    clients: Vec<Client>,
    messages_left: u64,
    /// Names deferred messages in their payload: they arrive under another id.
    tokens: u64,
    healing: bool,
    busy_at: u64,
    trace: u64,
    steps: u64,
    printing: bool,
    /// Somebody says what happens: nothing comes back by itself.
    script: Option<Gates>,
    /// Messages of `latest` and `droppable`.
    loose: Loose,
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
    run_variant(seed, printing, Variant::default())
}

/// The same in a world without one rule; it ends at the first promise that is broken.
#[must_use]
pub fn run_variant(seed: u64, printing: bool, variant: Variant) -> Verdict {
    let mut prng = Prng::new(seed);
    let knobs = Knobs::of(seed, &mut prng);
    let mut world = World::new(knobs.clone(), prng, variant);
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

/// Messages that wait, with their mailbox.
fn waiting(store: &MemoryStore) -> Vec<(String, MessageId)> {
    let rows = |(player, mailbox): (&std::sync::Arc<str>, &MemoryMailbox)| {
        let player = player.to_string();
        let ids: Vec<MessageId> = mailbox.rows.iter().map(|row| row.id).collect();
        ids.into_iter().map(move |id| (player.clone(), id))
    };
    let later = |deferred: &Deferred| (deferred.player.to_string(), deferred.id);
    let deferred = store.deferred.values().map(later);
    store
        .mailboxes
        .iter()
        .flat_map(rows)
        .chain(deferred)
        .collect()
}

impl World {
    /// Everything down, nobody online, the faults on the agenda.
    #[must_use]
    pub fn new(knobs: Knobs, prng: Prng, variant: Variant) -> Self {
        let mut world = Self::bare(knobs, prng, variant);
        world.begin();
        world
    }

    /// Everything down, nothing on the agenda.
    fn bare(knobs: Knobs, prng: Prng, variant: Variant) -> Self {
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
                cut_off_until_ms: 0,
            })
            .collect();
        let clients = (0..knobs.players)
            .map(|n| Client::new(format!("player-{n}")))
            .collect();
        let mut world = Self {
            messages_left: knobs.messages,
            tokens: 0,
            knobs,
            variant,
            prng,
            agenda: Agenda::default(),
            now_ms: 1,
            hub: None,
            hub_incarnation: 0,
            hub_timer_at: u64::MAX,
            store: MemoryStore::default(),
            store_busy: false,
            store_fails: false,
            store_away_until: 0,
            wall_ms: WALL_MS,
            nodes,
            links: BTreeMap::new(),
            last_conn: 0,
            clients,
            healing: false,
            busy_at: 0,
            trace: 0,
            steps: 0,
            printing: false,
            script: None,
            loose: Loose::default(),
            checker: Checker::default(),
            exits: Vec::new(),
        };
        variant.change_store(&mut world.store);
        if world.knobs.wall_off_ms == 0 {
            world.checker.clock_is_right(WALL_MS);
        }
        world.store.limit_bytes = world.knobs.store_limit_bytes;
        world.store.player_messages = world.knobs.quota_messages;
        world.store.player_bytes = world.knobs.quota_bytes;
        for client in 0..world.clients.len() {
            world.checker.session_begins(&world.clients[client].player);
        }
        world
    }

    fn begin(&mut self) {
        self.later(0, What::HubStart);
        for node in 0..self.nodes.len() {
            let delay = self.prng.below(50);
            self.later(delay, What::NodeStart(node));
        }
        for client in 0..self.clients.len() {
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
            let late_ms = self.knobs.faults_until_ms.max(self.busy_at) + HEAL_MS;
            let over = at_ms > late_ms || self.steps > MAX_STEPS;
            if over || (self.healing && idle_ms > QUIET_MS && self.settled()) {
                break;
            }
            self.now_ms = self.now_ms.max(at_ms);
            self.happen(what);
            if !self.variant.is_whole() && !self.checker.violations.is_empty() {
                return;
            }
        }
        self.end();
    }

    /// What is untrue at the end is found.
    fn end(&mut self) {
        let living: Vec<(u64, u64)> = self
            .nodes
            .iter()
            .map(|node| (node_key(&node.name), node.epoch))
            .collect();
        self.loose.end(&living);
        self.tell_loose();
        if self.script.is_none() {
            self.find_stray_marks();
        }
        let waiting = waiting(&self.store);
        self.checker.end(self.now_ms, &waiting);
    }

    /// Promise F: a mark of the deferred list whose sender can't repeat what it stands for, and which nobody has ended.
    fn find_stray_marks(&mut self) {
        let mut stray = Vec::new();
        for ((player, key), (epoch, seq)) in &self.store.deferred_marks {
            let sender = self.nodes.iter().find(|node| node_key(&node.name) == *key);
            let waits = |node: &NodeProcess| {
                let core = node.core.as_ref();
                node.epoch == *epoch && core.is_none_or(|core| core.unreceipted() > 0)
            };
            if sender.is_some_and(|node| !waits(node)) {
                stray.push(format!("mark of {key:x}/{epoch}/{seq} to {player} is left"));
            }
        }
        for text in stray {
            self.checker.fail(self.now_ms, "F", text);
        }
    }

    /// What was found of messages of `latest` and `droppable`.
    fn tell_loose(&mut self) {
        for (promise, text) in self.loose.take_found() {
            self.checker.fail(self.now_ms, promise, text);
        }
    }

    fn settled(&self) -> bool {
        // Who stays away gets no newest value, and its sender no receipt.
        let online = |client: &Client| client.place != Place::Away;
        self.messages_left == 0
            && (self.knobs.latest_per_mille == 0 || self.clients.iter().all(online))
            && waiting(&self.store).is_empty()
            && self.store.deferred_marks.is_empty()
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
            What::HubReads(conn) => self.hub_reads(conn),
            What::Writable(conn) => self.writable(conn, true),
            What::HubDrains(incarnation, until_ms) => self.hub_drains(incarnation, until_ms),
        }
    }
}
