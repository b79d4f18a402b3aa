//! Any order of sends, acks, moves, logouts, cuts, restarts, commits and failures of the store:
//! one player whose client keeps a cursor, two senders, two hosting nodes.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["s0", "s1", "h0", "h1"];

/// What a node holds about the player.
#[derive(Debug, Default)]
struct Host {
    request: u64,
    login: u64,
    binding: u64,
    pending: Vec<(u32, MessageId)>,
    leaving: Option<Vec<Mark>>,
}

struct Play {
    world: World,
    nodes: Vec<Node>,
    hosts: [Host; 2],
    /// Where the client is.
    at: Option<usize>,
    requests: u64,
    cursor: BTreeMap<u64, MessageId>,
    handled: Vec<MessageId>,
    next: [u64; 2],
    open: [BTreeSet<u64>; 2],
    /// A message of the sender was busy.
    stuck: [bool; 2],
}

impl Play {
    fn new() -> Self {
        let mut world = World::new();
        let nodes: Vec<_> = NAMES.iter().map(|name| world.node(name, 1)).collect();
        let mut play = Self {
            world,
            nodes,
            hosts: Default::default(),
            at: None,
            requests: 0,
            cursor: BTreeMap::new(),
            handled: Vec::new(),
            next: [1, 1],
            open: Default::default(),
            stuck: [false; 2],
        };
        play.log_in(0);
        play
    }

    fn claim(&mut self, host: usize, login: u64) {
        self.requests += 1;
        self.hosts[host].request = self.requests;
        let claims = [Claim {
            player: "p",
            login,
            request: self.requests,
        }];
        let node = self.nodes[host + 2].clone();
        let claims = (&claims).into();
        let message = if login == 0 {
            Message::Login { claims }
        } else {
            Message::Register {
                claims,
                last: false,
            }
        };
        self.world.say(&node, &message);
        self.read();
    }

    /// The client goes to a node.
    fn log_in(&mut self, host: usize) {
        if self.hosts.iter().all(|host| host.leaving.is_none()) {
            self.hosts[host].pending.clear();
            self.at = Some(host);
            self.claim(host, 0);
        }
    }

    fn log_out(&mut self) {
        if let Some(host) = self.at.filter(|host| self.hosts[*host].login != 0) {
            self.at = None;
            self.hosts[host].leaving = Some(self.cursor.values().copied().collect());
            self.hosts[host].request = 0;
            self.repeat_logout(host);
        }
    }

    fn repeat_logout(&mut self, host: usize) {
        if let Some(cursor) = self.hosts[host].leaving.clone() {
            let node = self.nodes[host + 2].clone();
            self.world
                .logout(&node, "p", self.hosts[host].login, &cursor);
            self.read();
        }
    }

    fn send(&mut self, sender: usize, seq: u64, resend: bool) {
        let low = self.open[sender].first().copied().unwrap_or(seq);
        self.open[sender].insert(seq);
        let (policy, content, target) = (Policy::MustDeliver, Content::Bytes, Target::Player("p"));
        let send = Send {
            seq,
            low,
            deadline_ms: 0,
            deliver_at_ms: 0,
            quiet: false,
            trace: false,
            policy,
            resend,
            content,
            target,
            key: "",
            payload: b"x",
        };
        self.world
            .say(&self.nodes[sender].clone(), &Message::Send(send));
        self.read();
    }

    /// A node's link breaks and it comes back.
    fn cut(&mut self, at: usize) {
        let old = self.nodes[at].clone();
        self.world.received.remove(&old.conn); // What was on its way is lost.
        self.world.drop_link(&old);
        self.come_back(at);
    }

    fn come_back(&mut self, at: usize) {
        self.nodes[at] = self.world.hello(NAMES[at], 1);
        if at < 2 {
            self.world.say(
                &self.nodes[at].clone(),
                &Message::Register {
                    claims: (&[]).into(),
                    last: true,
                },
            );
            for seq in self.open[at].clone() {
                self.send(at, seq, true);
            }
            return;
        }
        let host = at - 2;
        self.repeat_logout(host);
        let login = self.hosts[host].login;
        if self.hosts[host].leaving.is_none() {
            let waits = self.at == Some(host) && self.hosts[host].binding == 0;
            if waits {
                self.claim(host, 0);
            } else if login != 0 {
                self.claim(host, login);
            }
        }
        self.world.say(
            &self.nodes[at].clone(),
            &Message::Register {
                claims: (&[]).into(),
                last: true,
            },
        );
        self.read();
    }

    fn restart(&mut self, order: bool) {
        let world = std::mem::replace(&mut self.world, World::new());
        let auto = world.auto;
        self.world = world.restart();
        self.world.auto = auto;
        let mut all = [0, 1, 2, 3];
        if order {
            all.reverse();
        }
        for at in all {
            self.come_back(at);
        }
    }

    /// Everything that nodes have received.
    fn read(&mut self) {
        for at in 0..4 {
            let bytes = self
                .world
                .received
                .remove(&self.nodes[at].conn)
                .unwrap_or_default();
            for message in decode(&bytes) {
                match message.unwrap() {
                    Message::Receipt { receipts } => receipts
                        .iter()
                        .for_each(|r| self.receipt(at, r.seq, r.outcome)),
                    message if at >= 2 => self.at_host(at - 2, &message),
                    _ => {}
                }
            }
        }
    }

    fn receipt(&mut self, sender: usize, seq: u64, outcome: Outcome) {
        let id = self.nodes[sender].id(seq);
        match outcome {
            Outcome::Delivered => {
                assert!(self.handled.contains(&id), "{id:?} delivered, not handled")
            }
            Outcome::Stored => {
                let in_store = self.world.store.rows("p").iter().any(|row| row.id == id);
                assert!(
                    in_store || self.handled.contains(&id),
                    "{id:?} stored, but nowhere"
                );
            }
            Outcome::Busy => {
                self.stuck[sender] = true;
                return;
            }
            other => panic!("{other:?}"),
        }
        self.open[sender].remove(&seq);
    }

    fn at_host(&mut self, host: usize, message: &Message<'_>) {
        let state = &mut self.hosts[host];
        match message {
            Message::Bound { bound } => {
                for bound in bound.iter().filter(|bound| bound.request == state.request) {
                    (state.login, state.binding) = (bound.login, bound.binding);
                    state.pending.clear();
                }
            }
            Message::Deliver(deliver) => {
                for target in deliver
                    .targets
                    .iter()
                    .filter(|target| target.binding == state.binding)
                {
                    state.pending.push((target.number, deliver.id));
                }
            }
            Message::Drop { login, .. } if *login == state.login && login > &0 => self.leave(host),
            Message::LogoutDone { login, .. } if *login == state.login => {
                self.leave(host);
                self.cursor.clear(); // A new session knows nothing of this one.
            }
            Message::Forget { up_to, .. } => {
                self.cursor
                    .retain(|_, mark| *mark > *up_to || mark.node_key != up_to.node_key);
            }
            _ => {}
        }
    }

    fn leave(&mut self, host: usize) {
        let request = if self.at == Some(host) {
            self.hosts[host].request
        } else {
            0
        };
        self.hosts[host] = Host {
            request,
            ..Host::default()
        };
    }

    /// The client handles some of what its node holds, and the node acks.
    fn handle(&mut self, most: usize) {
        let Some(host) = self.at else { return };
        let mut last = None;
        let taken: Vec<_> = {
            let pending = &mut self.hosts[host].pending;
            let count = pending.len().min(most);
            pending.drain(..count).collect()
        };
        for (number, id) in taken {
            if self.cursor.get(&id.node_key).is_none_or(|mark| *mark < id) {
                assert!(!self.handled.contains(&id), "{id:?} handled twice");
                let before = self
                    .handled
                    .iter()
                    .rfind(|other| other.node_key == id.node_key);
                assert!(
                    before.is_none_or(|before| *before < id),
                    "{id:?} after {before:?}"
                );
                self.handled.push(id);
                self.cursor.insert(id.node_key, id);
            }
            last = Some(number);
        }
        if let Some(number) = last {
            let (node, binding) = (self.nodes[host + 2].clone(), self.hosts[host].binding);
            self.world.ack(&node, binding, number);
            self.read();
        }
    }

    fn step(&mut self, step: u8, arg: u8) {
        let which = usize::from(arg % 2);
        match step {
            0..=5 => {
                let seq = self.next[which];
                self.next[which] += 1;
                self.send(which, seq, false);
            }
            6..=9 => self.handle(usize::from(arg % 4) + 1),
            10 => self.log_in(which),
            11 => self.log_out(),
            12 => self.cut(usize::from(arg % 4)),
            13 => self.restart(which == 0),
            14 => self.world.auto = which == 0,
            15..=17 => {
                self.world.commit();
                self.world.run();
            }
            18 => {
                if self.world.issue().is_some() {
                    self.world.fail(which == 0);
                }
            }
            _ => self.world.pass(u64::from(arg) * 2),
        }
        self.beat();
    }

    /// Nodes are alive.
    fn beat(&mut self) {
        for at in 0..4 {
            let low = if at < 2 {
                self.open[at].first().copied().unwrap_or(self.next[at])
            } else {
                0
            };
            self.world
                .say(&self.nodes[at].clone(), &Message::Ping { nonce: 0, low });
        }
        self.read();
    }

    /// Faults are over and the player is online: promise G.
    fn finish(&mut self) {
        self.world.auto = true;
        for _ in 0..20 {
            self.world.pass(500);
            self.beat();
        }
        for at in 0..4 {
            self.cut(at);
        }
        if self.at.is_none() {
            self.log_in(0);
        }
        for _ in 0..200 {
            self.handle(9);
            self.world.pass(100);
            self.beat();
        }
        assert_eq!(
            self.open,
            [BTreeSet::new(), BTreeSet::new()],
            "receipts are missing"
        );
        assert_eq!(
            self.handled.len() as u64,
            self.next[0] + self.next[1] - 2,
            "handled: {:?}",
            self.handled
        );
        assert!(self.world.store.is_empty(), "rows are left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4_000, ..ProptestConfig::default() })]
    #[test]
    fn promises_hold(steps in proptest::collection::vec((0u8..20, any::<u8>()), 1..120)) {
        let mut play = Play::new();
        for (step, arg) in steps {
            play.step(step, arg);
        }
        play.finish();
    }

    /// Bytes of a node that has said hello: the hub closes or goes on, and never stops.
    #[test]
    fn any_frames_of_a_node(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..20), kind in any::<u8>()) {
        let mut world = World::new();
        let node = world.node("n", 1);
        for mut frame in frames {
            if frame.len() > 8 {
                let length = (frame.len() as u32).to_le_bytes();
                frame[..4].copy_from_slice(&length);
                frame[4..8].copy_from_slice(&[kind, 0, 0, 0]);
            }
            world.hub.handle_frame(world.now, node.conn, &frame);
            world.run();
        }
        world.node("other", 1);
    }
}
