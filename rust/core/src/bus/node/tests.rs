//! The node against a scripted hub: the named scenarios of BUS.md section 12 that a node can break.

mod hosting;
mod link;
mod requests;
mod sender;
mod version2;
mod words;

use super::cursor::Cursor;
use super::event::NodeEvent;
use super::hosting::{Attached, Delivery};
use super::sender::Recipient;
use super::*;
use crate::bus::message::{
    AnswerStatus, Bound, Deliver, GroupReport, Number, Outcome, Policy, PresenceKind, Receipt,
    ReportEntry,
};
use words::words;

const EPOCH: u64 = 70;

fn id(node_key: u64, seq: u64) -> MessageId {
    MessageId {
        node_key,
        epoch: 1,
        seq,
    }
}

/// A node and the hub's side of its link, in words.
struct Script {
    node: Node,
    now: u64,
    events: Vec<NodeEvent>,
}

impl Script {
    /// A welcomed node named "n".
    fn up() -> Self {
        let mut script = Self::new();
        script.connect();
        script.welcome(1);
        assert_eq!(script.written(), ["register last"]);
        script.events.clear();
        script
    }

    fn new() -> Self {
        let config = NodeConfig {
            name: "n".into(),
            epoch: EPOCH,
            connection: 5,
            roles: vec!["role".into()],
            next_seq: 1,
        };
        Self {
            node: Node::new(config, 0).unwrap(),
            now: 0,
            events: Vec::new(),
        }
    }

    fn connect(&mut self) {
        while !self.events.contains(&NodeEvent::Connect) {
            self.now = self
                .node
                .poll_timeout()
                .expect("it tries again")
                .max(self.now);
            self.node.handle_timeout(self.now, 0);
            self.take();
        }
        self.events.retain(|event| *event != NodeEvent::Connect);
        let hello = self.written();
        assert!(
            hello.len() == 1 && hello[0].starts_with("hello n 70"),
            "{hello:?}"
        );
    }

    fn welcome(&mut self, hub_epoch: u32) {
        self.welcome_as(hub_epoch, VERSION, features::ALL);
    }

    fn welcome_as(&mut self, hub_epoch: u32, version: u16, features: u64) {
        self.hub(&[Message::Welcome(Welcome {
            version,
            hub_epoch,
            heartbeat_ms: 1_000,
            dead_ms: 3_000,
            spread_ms: 0,
            max_payload: 1_000,
            window_messages: 100,
            window_bytes: 1 << 20,
            features,
            slots: List::Items(&[]),
        })]);
    }

    /// The link is lost, made again and welcomed.
    fn relink(&mut self) {
        self.node.handle_disconnected(self.now, 0, "cut");
        self.connect();
        self.welcome(1);
    }

    fn hub(&mut self, messages: &[Message<'_>]) {
        let mut frame = Vec::new();
        for message in messages {
            message.encode(&mut frame).unwrap();
        }
        self.node.handle_frame(self.now, 0, &frame);
        self.take();
    }

    fn take(&mut self) {
        self.events
            .extend(std::iter::from_fn(|| self.node.poll_event()));
    }

    fn written(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.node.poll_frame(self.now))
            .flat_map(|frame| words(&frame))
            .collect()
    }

    fn send(&mut self, player: &str, payload: &str) -> u64 {
        self.node
            .send(
                Recipient::Player(player.into()),
                Content::Text,
                payload.as_bytes(),
                None,
            )
            .unwrap()
    }

    fn receipt(&mut self, seq: u64, outcome: Outcome) {
        self.hub(&[Message::Receipt {
            receipts: List::Items(&[Receipt {
                seq,
                outcome,
                detail: "",
            }]),
        }]);
    }

    fn receipts(&mut self) -> Vec<(u64, Outcome)> {
        let all = self.events.drain(..);
        all.filter_map(|event| match event {
            NodeEvent::Receipt { seq, outcome, .. } => Some((seq, outcome)),
            _ => None,
        })
        .collect()
    }

    /// The player is hosted under this login and binding.
    fn host(&mut self, player: &str, login: u64, binding: u64, cursor: &[MessageId]) {
        let attached = self
            .node
            .attach(player, 0, cursor.iter().copied().collect())
            .unwrap();
        assert_eq!(attached, Attached::LoginPending);
        self.bound_last_request(player, login, binding);
        assert_eq!(
            self.events.pop(),
            Some(NodeEvent::Bound {
                player: player.into(),
                login
            })
        );
    }

    /// Answers what the node has just asked for this player.
    fn bound_last_request(&mut self, player: &str, login: u64, binding: u64) -> Vec<String> {
        let written = self.written();
        let asked = written
            .iter()
            .rev()
            .find(|word| word.contains(player) && word.contains('#'))
            .expect("asked");
        let request = asked
            .split(' ')
            .find(|part| part.starts_with(player))
            .unwrap()
            .split('#')
            .nth(1)
            .unwrap();
        self.bound(player, login, binding, request.parse().unwrap());
        written
    }

    fn bound(&mut self, player: &str, login: u64, binding: u64, request: u64) {
        self.hub(&[Message::Bound {
            bound: List::Items(&[Bound {
                player,
                login,
                binding,
                request,
            }]),
        }]);
    }

    fn deliver(&mut self, binding: u64, number: u32, message: MessageId) {
        self.hub(&[Message::Deliver(Deliver {
            id: message,
            trace: false,
            policy: Policy::MustDeliver,
            content: Content::Bytes,
            targets: List::Items(&[Number { binding, number }]),
            payload: b"x",
        })]);
    }

    /// Messages that the owner was given: player and seq.
    fn shown(&mut self) -> Vec<(String, u64)> {
        let all = self.events.drain(..);
        all.filter_map(|event| match event {
            NodeEvent::Message { player, id, .. } => Some((player.to_string(), id.seq)),
            _ => None,
        })
        .collect()
    }
}

fn seqs(pending: &[Delivery]) -> Vec<u64> {
    pending.iter().map(|delivery| delivery.id.seq).collect()
}
