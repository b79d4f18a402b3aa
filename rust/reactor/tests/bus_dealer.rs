//! Native nodes against the real hub over real sockets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zmqgame_core::bus::hub::{Allowed, HubConfig};
use zmqgame_core::bus::memory_store::MemoryStore;
use zmqgame_core::bus::message::{AnswerStatus, Content, Outcome};
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::sender::Recipient;
use zmqgame_core::bus::node::{Node, NodeConfig};
use zmqgame_core::zmtp::{Config, Role, SecretKey, Security};
use zmqgame_reactor::bus::dealer::{Dealer, DealerConfig};
use zmqgame_reactor::bus::dealer_thread::NativeNode;
use zmqgame_reactor::bus::hub::HubRunner;

const DEADLINE: Duration = Duration::from_secs(60);

/// The hub with a store in memory.
struct Running {
    hub: Arc<HubRunner>,
    stopped: Arc<AtomicBool>,
    store: Option<JoinHandle<()>>,
}

impl Running {
    fn new(listen: &str, hub_epoch: u32, security: Security, allowed: Vec<Allowed>) -> Self {
        let config = HubConfig {
            hub_epoch,
            allowed,
            node_grace_ms: 300,
            // Nobody is given up for silence because the machine stands still.
            dead_ms: 60_000,
            ..HubConfig::default()
        };
        let zmtp = Config::new(Role::Server, security);
        let hub = Arc::new(HubRunner::start(config, zmtp, &[listen.to_owned()]).unwrap());
        let stopped = Arc::new(AtomicBool::new(false));
        let (of_store, store_stopped) = (Arc::clone(&hub), Arc::clone(&stopped));
        let store = std::thread::spawn(move || {
            let mut store = MemoryStore::default();
            while !store_stopped.load(Ordering::Acquire) {
                if let Some(batch) = of_store.store().next(Duration::from_millis(20)) {
                    let done = store.commit(&batch);
                    of_store.store().finish(batch.number, Ok(done)).unwrap();
                }
            }
        });
        Self {
            hub,
            stopped,
            store: Some(store),
        }
    }

    fn null() -> Self {
        Self::new("tcp://127.0.0.1:0", 1, Security::Null, Vec::new())
    }

    fn endpoint(&self) -> String {
        self.hub.endpoints()[0].clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        self.hub.stop(0);
        self.store.take().unwrap().join().unwrap();
    }
}

fn config(name: &str, endpoint: &str, roles: &[&str]) -> DealerConfig {
    DealerConfig {
        node: NodeConfig {
            name: name.into(),
            epoch: 1,
            connection: 1,
            roles: roles.iter().map(ToString::to_string).collect(),
            next_seq: 1,
        },
        endpoint: endpoint.into(),
        security: Security::Null,
        now_ms: 1_000_000,
    }
}

struct Client {
    node: NativeNode,
    events: VecDeque<NodeEvent>,
}

impl Client {
    fn new(config: DealerConfig) -> Self {
        Self {
            node: NativeNode::start(config).unwrap(),
            events: VecDeque::new(),
        }
    }

    fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&NodeEvent) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            while let Some(event) = self.events.pop_front() {
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
            assert!(Instant::now() < end, "no {what} in time");
            self.node
                .wait_events(&mut self.events, Duration::from_millis(200));
        }
    }

    fn up(&mut self) {
        self.until("welcome", |event| {
            matches!(event, NodeEvent::Up { .. }).then_some(())
        });
    }

    fn host(&mut self, player: &str) {
        self.node
            .with(|node, _| node.attach(player, 0, Default::default()))
            .unwrap();
        self.until("login", |event| {
            matches!(event, NodeEvent::Bound { .. }).then_some(())
        });
    }

    fn send(&self, player: &str, payload: &[u8]) -> u64 {
        self.node
            .with(|node, _| {
                let to = Recipient::Player(player.into());
                node.send(to, Content::Bytes, payload, None)
            })
            .unwrap()
    }

    fn receipt(&mut self, wanted: u64) -> Outcome {
        self.until("receipt", |event| match event {
            NodeEvent::Receipt { seq, outcome, .. } if *seq == wanted => Some(*outcome),
            _ => None,
        })
    }
}

/// Answers what comes and acks all messages; on the thread of its dealer.
fn serve(node: &mut Node, event: NodeEvent) {
    match event {
        NodeEvent::Call {
            call,
            content,
            payload,
            ..
        } => {
            node.reply(call, true, content, &payload).unwrap();
        }
        NodeEvent::Message { player, id, .. } => node.handled(&player, id),
        _ => {}
    }
}

struct Inline {
    stop: Arc<AtomicBool>,
    wake: zmqgame_reactor::wake::Wake,
    thread: Option<JoinHandle<()>>,
}

impl Inline {
    fn new(config: DealerConfig, player: &str) -> Self {
        let mut dealer = Dealer::new(config).unwrap();
        dealer.node().attach(player, 0, Default::default()).unwrap();
        let (stop, wake) = (Arc::new(AtomicBool::new(false)), dealer.wake());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                dealer.turn(None).unwrap();
                while let Some(event) = dealer.poll_event() {
                    serve(dealer.node(), event);
                }
            }
        });
        Self {
            stop,
            wake,
            thread: Some(thread),
        }
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn requests_and_messages_cross_between_an_inline_and_a_threaded_node() {
    let hub = Running::null();
    let _far = Inline::new(config("far", &hub.endpoint(), &["echo"]), "alice");
    let mut near = Client::new(config("near", &hub.endpoint(), &[]));
    near.up();
    let end = Instant::now() + DEADLINE;
    loop {
        let call = near
            .node
            .with(|node, now_ms| node.request(now_ms, "echo", Content::Text, b"hello", 5_000))
            .unwrap();
        let (status, payload) = near.until("answer", |event| match event {
            NodeEvent::Answer {
                call: answered,
                status,
                payload,
                ..
            } if *answered == call => Some((*status, payload.clone())),
            _ => None,
        });
        if status == AnswerStatus::Ok {
            assert_eq!(payload, b"hello");
            break;
        }
        assert!(Instant::now() < end, "{status:?}");
    }
    let seqs: Vec<u64> = near.node.with(|node, _| {
        let send = |number: u32| {
            let to = Recipient::Player("alice".into());
            node.send(to, Content::Bytes, &number.to_le_bytes(), None)
                .unwrap()
        };
        (0..5_000).map(send).collect()
    });
    for seq in seqs {
        let outcome = near.receipt(seq);
        assert!(
            matches!(outcome, Outcome::Delivered | Outcome::Stored),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_large_payload_passes_both_ways_and_order_holds() {
    let hub = Running::null();
    let (mut near, mut far) = (
        Client::new(config("near", &hub.endpoint(), &[])),
        Client::new(config("far", &hub.endpoint(), &[])),
    );
    near.up();
    far.up();
    far.host("alice");
    let payloads: Vec<Vec<u8>> = (0..40u8)
        .map(|n| vec![n; 20_000 * usize::from(n)])
        .collect();
    let seqs: Vec<u64> = payloads
        .iter()
        .map(|payload| near.send("alice", payload))
        .collect();
    for payload in &payloads {
        let (player, id, got) = far.until("message", |event| match event {
            NodeEvent::Message {
                player,
                id,
                payload,
                ..
            } => Some((player.clone(), *id, payload.clone())),
            _ => None,
        });
        assert!(&*got == payload.as_slice());
        far.node.with(|node, _| node.handled(&player, id));
    }
    for seq in seqs {
        assert_eq!(near.receipt(seq), Outcome::Delivered);
    }
}

#[test]
fn a_hub_that_comes_back_finds_its_nodes_again() {
    let hub = Running::null();
    let endpoint = hub.endpoint();
    let mut near = Client::new(config("near", &endpoint, &[]));
    near.up();
    near.host("alice");
    drop(hub);
    near.until("loss", |event| {
        matches!(event, NodeEvent::Down { .. }).then_some(())
    });
    let seq = near.send("alice", b"while the hub was away");
    std::thread::sleep(Duration::from_millis(120)); // some tries at a closed port
    let _hub = Running::new(&endpoint, 2, Security::Null, Vec::new());
    near.up();
    let id = near.until("message", |event| match event {
        NodeEvent::Message { id, .. } => Some(*id),
        _ => None,
    });
    near.node.with(|node, _| node.handled("alice", id));
    assert_eq!(near.receipt(seq), Outcome::Delivered);
}

fn secret(byte: u8) -> SecretKey {
    SecretKey::new([byte; 32])
}

#[test]
fn curve_lets_known_keys_in_and_says_what_is_wrong_with_others() {
    let (server, known, stranger) = (secret(1), secret(2), secret(3));
    let security = Security::CurveServer {
        secret: server.clone(),
        allowed: Some([known.public()].into()),
    };
    let allowed = Allowed {
        key: known.public(),
        names: "near".into(),
        roles: vec!["*".into()],
    };
    let hub = Running::new("tcp://127.0.0.1:0", 1, security, vec![allowed]);
    let with = |secret: &SecretKey, server: &SecretKey| {
        let mut config = config("near", &hub.endpoint(), &[]);
        config.security = Security::CurveClient {
            server: server.public(),
            secret: secret.clone(),
        };
        Client::new(config)
    };
    let mut near = with(&known, &server);
    near.up();
    let seq = near.send("nobody", b"x");
    assert_eq!(near.receipt(seq), Outcome::Refused);
    for (mut lost, words) in [
        (with(&stranger, &server), "does not admit this node's key"),
        (with(&known, &stranger), "copy of the hub's public key"),
        (
            Client::new(config("near", &hub.endpoint(), &[])),
            "wants CURVE keys",
        ),
    ] {
        let why = lost.until("end", |event| match event {
            NodeEvent::Down { why } => Some(why.clone()),
            _ => None,
        });
        assert!(why.contains(words), "{why}");
        assert_eq!(lost.node.key_trouble(), why);
    }
}

#[test]
fn no_hub_and_no_address_are_told_and_tried_again() {
    for (endpoint, words) in [
        ("tcp://127.0.0.1:1", "does not listen"),
        ("nonsense", "write tcp://"),
        ("ipc:///nowhere/at/all", "No such file"),
    ] {
        let mut lost = Client::new(config("near", endpoint, &[]));
        for _ in 0..3 {
            let why = lost.until("end", |event| match event {
                NodeEvent::Down { why } => Some(why.clone()),
                _ => None,
            });
            assert!(why.contains(words), "{why}");
        }
    }
}
