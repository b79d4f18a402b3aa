//! The matrix: {1, 3 loops} x {tcp, unix, websocket, tls, wss} x {from the handler, from another thread,
//! vectored}: every byte comes back, whatever the sizes and splits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zmqgame_core::stream::packet::Header;
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};
use zmqgame_reactor::edge::{Edge, Handler, Out, Write};

use crate::clients::{
    Client, Folder, Place, Random, TRANSPORTS, Transport, dial, listen, send_pieces,
};
use crate::common::{answers, counter};

const CLIENTS: usize = 5;
const PACKETS: usize = 60;
/// Packets of one client under way: what fits into the smallest socket buffers.
const UNDER_WAY: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Handler,
    OtherThread,
    Vectored,
}

pub const WAYS: [Way; 3] = [Way::Handler, Way::OtherThread, Way::Vectored];

struct Echo {
    vectored: bool,
}

impl Handler for Echo {
    fn traffic(&mut self, connection: u64, header: Header, payload: &[u8], out: &mut Out<'_>) {
        if self.vectored {
            let (first, rest) = payload.split_at(payload.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            assert!(out.send_vectored(connection, header, &[first, second, &[], third]));
        } else {
            assert!(out.send(Write {
                connection,
                kind: header.kind,
                sequence: header.sequence,
                payload,
            }));
        }
    }
}

/// Runs `client` beside an edge that echoes in this way.
pub fn with_echo(config: EdgeConfig, way: Way, client: impl FnOnce(&Edge)) {
    let make = |_| -> Option<Box<dyn Handler>> {
        (way != Way::OtherThread).then(|| {
            let vectored = way == Way::Vectored;
            Box::new(Echo { vectored }) as Box<dyn Handler>
        })
    };
    let edge = Arc::new(Edge::start_with(config, make).unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let other = (way == Way::OtherThread).then(|| {
        let (edge, over) = (Arc::clone(&edge), Arc::clone(&over));
        std::thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                if edge.wait(20).unwrap() {
                    let batch = edge.receive();
                    edge.send(answers(&batch));
                }
            }
        })
    });
    client(&edge);
    over.store(true, Ordering::Release);
    if let Some(other) = other {
        other.join().unwrap();
    }
    edge.stop(1_000);
}

fn packets_come_back(place: &Place, seed: u64) {
    let mut random = Random::new(seed);
    let mut client = Client::new(place);
    for round in 0..PACKETS / UNDER_WAY {
        let mut sent = Vec::new();
        for index in 0..UNDER_WAY {
            let most = [1, 64, 1_000, 6_000][random.below(4)];
            let count = random.below(most);
            let payload = random.bytes(count);
            let header = Header {
                kind: random.below(240) as u8,
                sequence: (round * UNDER_WAY + index) as u64,
            };
            client.send(header, &payload, &mut random);
            let mut whole = Vec::new();
            header.write(&mut whole);
            whole.extend(payload);
            sent.push(whole);
        }
        for whole in sent {
            assert_eq!(client.receive(), whole, "{place:?} seed {seed}");
        }
    }
}

fn bytes_come_back(place: &Place, seed: u64) {
    let mut random = Random::new(seed);
    let mut stream = dial(place);
    for _ in 0..12 {
        let most = [10, 1_000, 40_000][random.below(3)];
        let count = 1 + random.below(most);
        let bytes = random.bytes(count);
        send_pieces(&mut *stream, &bytes, &mut random);
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == bytes, "{place:?} seed {seed}");
    }
}

fn all_at_once(place: &Place, client: fn(&Place, u64)) {
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            scope.spawn(move || client(place, seed as u64 + 1));
        }
    });
}

fn matrix_of(transport: Transport) {
    let folder = Folder::new(&format!("matrix-{transport:?}"));
    for loops in [1, 3] {
        for way in WAYS {
            // On a machine with other work five handshakes at once may take long.
            let config = EdgeConfig {
                loops,
                handshake_ms: 60_000,
                ..EdgeConfig::default()
            };
            with_echo(config, way, |edge| {
                let place = listen(edge, transport, Framing::Packets, &folder);
                all_at_once(&place, packets_come_back);
                let of = |name| counter(edge, name);
                let all = (CLIENTS * PACKETS) as u64;
                assert_eq!((of("packets_in"), of("packets_out")), (all, all));
                assert_eq!(of("opened"), CLIENTS as u64);
            });
            if !matches!(transport, Transport::WebSocket | Transport::Wss) {
                let config = EdgeConfig {
                    loops,
                    ..EdgeConfig::default()
                };
                with_echo(config, way, |edge| {
                    let place = listen(edge, transport, Framing::Raw, &folder);
                    all_at_once(&place, bytes_come_back);
                });
            }
        }
    }
}

#[test]
fn tcp() {
    matrix_of(TRANSPORTS[0]);
}

#[test]
fn unix() {
    matrix_of(TRANSPORTS[1]);
}

#[test]
fn websocket() {
    matrix_of(TRANSPORTS[2]);
}

#[test]
fn tls() {
    matrix_of(TRANSPORTS[3]);
}

#[test]
fn wss() {
    matrix_of(TRANSPORTS[4]);
}
