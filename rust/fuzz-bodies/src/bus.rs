//! The bus: a batch by itself, and the two state machines that live on batches of strangers.

use std::collections::BTreeMap;

use zmqgame_core::bus::codec::decode;
use zmqgame_core::bus::hub::{Hub, HubConfig, HubOut, Peer};
use zmqgame_core::bus::memory_store::MemoryStore;
use zmqgame_core::bus::message::{
    Claim, Content, Hello, Member, Message, MessageId, Policy, Scope, Send, Target as To, node_key,
};
use zmqgame_core::bus::node::Node;
use zmqgame_core::bus::node::config::NodeConfig;
use zmqgame_core::bus::node::cursor::Cursor;
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::sender::Recipient;
use zmqgame_core::bus::store::{StoreBatch, StoreError};

use crate::Target;
use crate::split::{Steps, push_step};

pub const BATCH: Target = Target {
    name: "bus_batch",
    body: batch,
    seeds: vectors,
    per_byte: 4,
    fixed: 4 << 10,
};
pub const HUB: Target = Target {
    name: "bus_hub",
    body: hub,
    seeds: hub_seeds,
    per_byte: 512,
    fixed: 512 << 10,
};
pub const NODE: Target = Target {
    name: "bus_node",
    body: node,
    seeds: node_seeds,
    per_byte: 256,
    fixed: 256 << 10,
};

/// Every message that decodes encodes to the bytes that it came from.
fn batch(data: &[u8]) {
    let mut written = Vec::new();
    for message in decode(data) {
        match message {
            Ok(message) => message.encode(&mut written).expect("what came is sendable"),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                break;
            }
        }
    }
    assert_eq!(written, data[..written.len()]);
}

/// The messages in the golden files of both directions.
fn vectors() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/bus");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the golden files are beside the sources")
        .map(|entry| entry.expect("a file").path())
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).expect("a golden file is text");
        for rest in text.split("\"hex\": \"").skip(1) {
            let hex = rest.split('"').next().unwrap_or_default();
            let bytes = hex.as_bytes().chunks_exact(2);
            let byte = |pair: &[u8]| {
                let text = std::str::from_utf8(pair).expect("hexadecimal");
                u8::from_str_radix(text, 16).expect("hexadecimal")
            };
            all.push(bytes.map(byte).collect());
        }
    }
    assert!(all.len() > 20, "the golden files are not what they were");
    all
}

fn bytes_of(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).expect("a message of ours");
    bytes
}

fn hello(name: &str, connection: u64) -> Vec<u8> {
    bytes_of(&Message::Hello(Hello {
        version_min: 1,
        version_max: 2,
        node_key: node_key(name),
        epoch: 1,
        connection,
        highest_hub_epoch: 0,
        low: 1,
        features: u64::MAX,
        name,
        roles: (&["echo"]).into(),
    }))
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A hub, three nodes of which the fuzzer speaks for all, and a store that it runs or fails.
struct World {
    hub: Hub,
    store: MemoryStore,
    under_way: Option<StoreBatch>,
    now_ms: u64,
    /// The connection of each node; the node is its rest by three.
    links: [u64; 3],
    connections: u64,
}

impl World {
    fn new() -> Self {
        // Small, so that the limits are within the fuzzer's reach.
        let config = HubConfig {
            unix_ms: 1_800_000_000_000,
            max_nodes: 8,
            max_links: 8,
            max_players: 64,
            max_groups: 16,
            max_groups_per_player: 4,
            queue_messages: 8,
            queue_bytes: 4 << 10,
            sent_messages: 4,
            cursor_senders: 3,
            link_bytes: 8 << 10,
            control_bytes: 64 << 10,
            store_bytes: 16 << 10,
            batch_bytes: 4 << 10,
            window_messages: 64,
            window_bytes: 64 << 10,
            max_calls: 4,
            ..HubConfig::default()
        };
        let mut world = Self {
            hub: Hub::new(config, 0),
            store: MemoryStore::default(),
            under_way: None,
            now_ms: 0,
            links: [0; 3],
            connections: 0,
        };
        world.commit();
        for node in 0..NAMES.len() {
            world.connect(node);
        }
        world
    }

    fn connect(&mut self, node: usize) {
        self.connections += 1;
        self.links[node] = self.connections;
        self.hub
            .handle_connected(self.now_ms, self.connections, Peer::default());
        let hello = hello(NAMES[node], self.connections);
        self.hub.handle_frame(self.now_ms, self.connections, &hello);
    }

    fn commit(&mut self) {
        if self.under_way.is_none() {
            self.under_way = self.hub.poll_store(16);
        }
        if let Some(batch) = self.under_way.take() {
            let done = self.store.commit(&batch);
            let fits = self.hub.handle_store(self.now_ms, batch.number, Ok(done));
            fits.expect("the batch under way");
        }
    }

    fn fail(&mut self, committed: bool) {
        if self.under_way.is_none() {
            self.under_way = self.hub.poll_store(16);
        }
        if let Some(batch) = self.under_way.take() {
            if committed {
                self.store.commit(&batch);
            }
            let reason = "away".into();
            let error = Err(StoreError { reason });
            let fits = self.hub.handle_store(self.now_ms, batch.number, error);
            fits.expect("the batch under way");
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.hub.handle_timeout(self.now_ms);
    }

    /// All that goes out can be read by a node.
    fn read(&mut self) {
        let mut frames = BTreeMap::<u64, usize>::new();
        while let Some(out) = self.hub.poll_out() {
            if let HubOut::Frame { conn, bytes } = out {
                *frames.entry(conn).or_default() += 1;
                for message in decode(&bytes) {
                    message.expect("the hub writes what can be read");
                }
            }
        }
    }
}

fn hub(data: &[u8]) {
    let mut world = World::new();
    world.read();
    for (what, bytes) in Steps(data) {
        let node = usize::from(what >> 4) % NAMES.len();
        let conn = world.links[node];
        match what & 0x0f {
            0..=7 => world.hub.handle_frame(world.now_ms, conn, bytes),
            8 | 9 => world.commit(),
            10 => world.fail(bytes.is_empty()),
            11 => world.pass(u64::from(what >> 4) * 400 + bytes.len() as u64),
            12 => {
                world.hub.handle_disconnected(world.now_ms, conn);
                world.connect(node);
            }
            13 => world.hub.set_writable(conn, !bytes.is_empty()),
            14 => {
                // A stranger without hello.
                world.connections += 1;
                let conn = world.connections;
                let now_ms = world.now_ms;
                world.hub.handle_connected(now_ms, conn, Peer::default());
                world.hub.handle_frame(now_ms, conn, bytes);
                world.hub.handle_disconnected(now_ms, conn);
            }
            _ => continue, // what goes out stays where it is
        }
        world.read();
        assert!(!world.hub.status_json().is_empty());
    }
}

fn hub_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut all = Vec::new();
    let commit = |seed: &mut Vec<u8>| push_step(seed, 8, b"");
    for bytes in vectors().iter().filter(|bytes| bytes[4] < 0x40) {
        let mut seed = Vec::new();
        push_step(&mut seed, 0, bytes);
        commit(&mut seed);
        push_step(&mut seed, 11, &[0; 100]);
        seeds.push(seed);
        push_step(&mut all, 0, bytes);
        commit(&mut all);
    }
    seeds.push(all);
    seeds.push(story());
    seeds
}

fn send_to(seq: u64, target: To<'_>) -> Message<'_> {
    Message::Send(Send {
        seq,
        low: 1,
        deadline_ms: 0,
        policy: Policy::MustDeliver,
        deliver_at_ms: 0,
        resend: false,
        quiet: false,
        trace: false,
        content: Content::Text,
        target,
        key: "",
        payload: b"hello",
    })
}

/// Login of p at b, sends of a live and offline, a group, a broadcast, a request, a reconnect.
fn story() -> Vec<u8> {
    let mut seed = Vec::new();
    let mut say = |node: u8, message: &Message<'_>| {
        push_step(&mut seed, node << 4, &bytes_of(message));
        push_step(&mut seed, 8, b"");
    };
    let claim = |login| Claim {
        player: "p",
        login,
        request: 1,
    };
    for node in 0..3 {
        let (claims, last) = ((&[]).into(), true);
        say(node, &Message::Register { claims, last });
    }
    let first = [claim(0)];
    let claims = (&first).into();
    say(1, &Message::Login { claims });
    let members = &[Member {
        group: "g",
        player: "p",
    }];
    let (request, durable) = (1, true);
    say(
        1,
        &Message::Join {
            request,
            durable,
            members: members.into(),
        },
    );
    say(2, &Message::Subscribe { topics: 1 });
    say(0, &send_to(1, To::Player("p")));
    say(0, &send_to(2, To::Group("g")));
    say(0, &send_to(3, To::Broadcast(Scope::Players)));
    say(
        0,
        &Message::Request {
            call: 1,
            deadline_ms: 100,
            service: "echo",
            content: Content::Bytes,
            payload: b"?",
        },
    );
    push_step(&mut seed, 0x1c, b""); // b comes back
    push_step(&mut seed, 0x1b, &[0; 200]);
    push_step(&mut seed, 0x10, &{
        let held = [claim(1 << 32 | 1)];
        let claims = (&held).into();
        bytes_of(&Message::Register { claims, last: true })
    });
    push_step(&mut seed, 8, b"");
    push_step(&mut seed, 0xfb, b"");
    seed
}

fn node(data: &[u8]) {
    let config = NodeConfig {
        name: "n".into(),
        epoch: 7,
        connection: 1,
        roles: vec!["echo".into()],
        next_seq: 1,
    };
    let mut node = Node::new(config, 0).expect("a good name");
    let (mut now_ms, mut last) = (0, None::<(String, MessageId)>);
    node.handle_timeout(0, 1);
    for (what, bytes) in Steps(data) {
        match what % 16 {
            0..=4 => node.handle_frame(now_ms, 7, bytes),
            5 => now_ms += bytes.len() as u64 * 50,
            6 => {
                let to = match bytes.first() {
                    Some(0) => Recipient::Group("g".into()),
                    Some(1) => Recipient::AllPlayers,
                    _ => Recipient::Player("p".into()),
                };
                let _full = node.send(to, Content::Bytes, bytes, None);
            }
            7 => {
                let _full = node.attach("p", u64::from(what >> 4), Cursor::default());
            }
            8 => node.detach(now_ms, "p"),
            9 => {
                if let Some((player, id)) = last.take() {
                    node.handled(&player, id);
                }
            }
            10 => {
                let _full = node.request(now_ms, "echo", Content::Text, bytes, 100);
            }
            11 => {
                let _unknown = node.reply(u64::from(what >> 4), true, Content::Bytes, bytes);
            }
            12 => node.handle_disconnected(now_ms, 9, "cut"),
            13 => {
                let _full = node.member(bytes.is_empty(), what > 127, "g", "p");
            }
            14 => {
                let _full = node.query(now_ms, what >> 4, "x", 100);
            }
            _ => node.subscribe(1),
        }
        node.handle_timeout(now_ms, 11);
        while let Some(event) = node.poll_event() {
            if let NodeEvent::Message { player, id, .. } = event {
                last = Some((player.to_string(), id));
            }
        }
        while let Some(frame) = node.poll_frame(now_ms) {
            for message in decode(&frame) {
                message.expect("the node writes what can be read");
            }
        }
    }
}

fn node_seeds() -> Vec<Vec<u8>> {
    let all: Vec<_> = vectors()
        .into_iter()
        .filter(|bytes| bytes[4] > 0x40 || bytes[4] == 0x0f)
        .collect();
    let welcome: Vec<_> = all
        .iter()
        .filter(|bytes| bytes[4] == 0x41)
        .cloned()
        .collect();
    let mut seeds = Vec::new();
    for bytes in &all {
        let mut seed = Vec::new();
        push_step(&mut seed, 7, b"");
        push_step(&mut seed, 6, b"to p");
        push_step(&mut seed, 6, b"\x00to g");
        push_step(&mut seed, 10, b"?");
        push_step(&mut seed, 0, &welcome[0]);
        push_step(&mut seed, 0, bytes);
        push_step(&mut seed, 9, b"");
        push_step(&mut seed, 12, b"");
        push_step(&mut seed, 5, &[0; 20]);
        push_step(&mut seed, 0, &welcome[0]);
        seeds.push(seed);
    }
    seeds
}
