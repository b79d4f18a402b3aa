//! gnet's echo matrix for UDP: {1, 3 loops} x {from the handler, from another thread, vectored}, every byte
//! back in order, on both families; and the life of a connection that is only an address.

mod common;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use zmqgame_core::stream::packet::{Batch, Header, KIND_CLOSE};
use zmqgame_reactor::edge::config::{EdgeConfig, OutboundPolicy};
use zmqgame_reactor::edge::{Edge, Handler, Out, Write};

use common::{DEADLINE, Echo, answers, counter, rows_until, until};

const CLIENTS: usize = 6;
/// Datagrams of one client that are under way: what fits into the smallest socket buffers.
const UNDER_WAY: usize = 4;

/// Answers each packet by itself.
struct EchoEach;

impl Handler for EchoEach {
    fn handle(&mut self, batch: &Batch, out: &mut Out<'_>) {
        for write in answers(batch) {
            assert!(out.send(write));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Handler,
    OtherThread,
    Vectored,
}

fn config(loops: usize) -> EdgeConfig {
    EdgeConfig {
        loops,
        ..EdgeConfig::default()
    }
}

/// Runs `client` against an edge that echoes in this way.
fn with_echo(loops: usize, way: Way, address: &str, client: impl FnOnce(&Edge, &str)) {
    let make = |_| -> Option<Box<dyn Handler>> {
        match way {
            Way::Handler => Some(Box::new(EchoEach)),
            Way::Vectored => Some(Box::new(Echo)),
            Way::OtherThread => None,
        }
    };
    let edge = Arc::new(Edge::start_with(config(loops), make).unwrap());
    let address = edge.listen_udp_plain(address).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let other = matches!(way, Way::OtherThread).then(|| {
        let (edge, over) = (Arc::clone(&edge), Arc::clone(&over));
        std::thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                if edge.wait(20).unwrap() {
                    let batch = edge.receive();
                    assert_eq!(edge.send(answers(&batch)), 0);
                }
            }
        })
    });
    client(&edge, &address);
    over.store(true, Ordering::Release);
    if let Some(other) = other {
        other.join().unwrap();
    }
    edge.stop(1_000);
}

fn dial(address: &str) -> UdpSocket {
    let any = if address.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Sends everything, a few at a time, and expects each back, in order.
fn exchange(socket: &UdpSocket, datagrams: &[Vec<u8>]) {
    let mut buffer = vec![0; 70_000];
    for few in datagrams.chunks(UNDER_WAY) {
        for datagram in few {
            socket.send(datagram).unwrap();
        }
        for datagram in few {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], datagram);
        }
    }
}

/// Bytes that no other datagram has.
fn content(client: usize, number: usize, length: usize) -> Vec<u8> {
    let seed = (client * 1_000 + number) as u64;
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |word: &mut u64| {
        *word ^= *word << 13;
        *word ^= *word >> 7;
        *word ^= *word << 17;
        *word as u8
    };
    (0..length).map(|_| next(&mut word)).collect()
}

fn echoes(loops: usize, way: Way, address: &str, lengths: &[usize]) {
    with_echo(loops, way, address, |edge, address| {
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    let datagrams: Vec<_> = lengths
                        .iter()
                        .enumerate()
                        .map(|(number, &length)| content(client, number, length))
                        .collect();
                    exchange(&dial(address), &datagrams);
                });
            }
        });
        let total = (CLIENTS * lengths.len()) as u64;
        assert_eq!(
            (counter(edge, "packets_in"), counter(edge, "packets_out")),
            (total, total)
        );
        assert_eq!(counter(edge, "opened"), CLIENTS as u64);
        assert_eq!(counter(edge, "datagrams_refused"), 0);
        let bytes = (CLIENTS * lengths.iter().sum::<usize>()) as u64;
        until("all sent is counted", || {
            counter(edge, "bytes_out") == bytes
        });
        assert_eq!(counter(edge, "bytes_in"), bytes);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    #[test]
    fn every_datagram_comes_back(
        lengths in prop::collection::vec(prop_oneof![4 => 0usize..1_500, 1 => 1_500usize..9_000, 2 => Just(64usize)], 20..200)
    ) {
        for loops in [1, 3] {
            for way in [Way::Handler, Way::OtherThread, Way::Vectored] {
                echoes(loops, way, "127.0.0.1:0", &lengths);
            }
        }
        echoes(2, Way::Vectored, "[::1]:0", &lengths);
    }
}

#[test]
fn the_longest_datagrams_come_back_too() {
    with_echo(1, Way::Vectored, "127.0.0.1:0", |_, address| {
        let socket = dial(address);
        for length in [65_507, 0, 65_506] {
            exchange(&socket, &[content(1, length, length)]);
        }
    });
}

#[test]
fn an_address_is_a_connection_until_it_is_silent_or_closed() {
    let edge = Edge::start(EdgeConfig {
        idle_ms: 3_000,
        ..EdgeConfig::default()
    })
    .unwrap();
    let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
    let (first, second) = (dial(&address), dial(&address));
    let mut rows = Vec::new();
    first.send(b"one").unwrap();
    rows_until(&edge, &mut rows, |rows| rows.len() == 2);
    let id = rows[0].0;
    let opening = String::from_utf8(rows[0].2.clone()).unwrap();
    assert!(opening.contains("\"transport\":\"udp-plain\""), "{opening}");
    assert!(
        opening.contains(&first.local_addr().unwrap().to_string()),
        "{opening}"
    );
    assert_eq!(rows[1], (id, 0, b"one".to_vec()));
    assert_eq!(edge.peer(id), Some(first.local_addr().unwrap().to_string()));

    // Closed by the server, the address may come again, as somebody else.
    edge.close(id, "enough");
    rows_until(&edge, &mut rows, |rows| rows.len() == 3);
    assert_eq!((rows[2].0, rows[2].1), (id, KIND_CLOSE));
    first.send(b"two").unwrap();
    rows_until(&edge, &mut rows, |rows| rows.len() == 5);
    assert_ne!(rows[3].0, id);
    let write = |connection| Write {
        connection,
        kind: 7,
        sequence: 7,
        payload: b"answer",
    };
    assert_eq!(edge.send([write(id)]), 1);
    assert_eq!(edge.send([write(rows[3].0)]), 0);
    let mut buffer = [0; 10];
    assert_eq!(first.recv(&mut buffer).unwrap(), 6);

    // One speaks on, the other is silent: only that one ends.
    second.send(b"I am here").unwrap();
    let start = Instant::now();
    let silent = rows[3].0;
    let closed = |rows: &[(u64, u8, Vec<u8>)]| {
        rows.iter()
            .any(|row| row.0 == silent && row.1 == KIND_CLOSE)
    };
    while !closed(&rows) {
        assert!(start.elapsed() < DEADLINE);
        second.send(b"still").unwrap();
        let before = rows.len();
        rows_until(&edge, &mut rows, |rows| rows.len() > before);
        std::thread::sleep(Duration::from_millis(20));
    }
    let reason = rows
        .iter()
        .find(|row| row.0 == silent && row.1 == KIND_CLOSE)
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&reason.2),
        "idle: no packet in 3000 ms"
    );
    assert_eq!((edge.connections(), counter(&edge, "closed_idle")), (1, 1));
}

#[test]
fn limits_hold_and_others_notice_nothing() {
    let limited = EdgeConfig {
        max_connections: 2,
        max_packet_bytes: 1_000,
        ..EdgeConfig::default()
    };
    let edge = Edge::start_with(limited, |_| Some(Box::new(Echo))).unwrap();
    let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
    let known = [dial(&address), dial(&address)];
    for socket in &known {
        exchange(socket, &[vec![1; 1_000]]);
    }
    let stranger = dial(&address);
    stranger.send(b"let me in").unwrap();
    until("the stranger is refused", || {
        counter(&edge, "refused_connections") == 1
    });
    known[0].send(&[2; 1_001]).unwrap();
    until("the long one is refused", || {
        counter(&edge, "datagrams_refused") == 2
    });
    for socket in &known {
        exchange(socket, &[vec![3; 500]]);
    }
    assert_eq!((edge.connections(), counter(&edge, "opened")), (2, 2));
}

#[test]
fn a_flood_of_one_address_is_dropped_over_its_rate_and_others_notice_nothing() {
    let limited = EdgeConfig {
        packets_per_s: 1,
        packets_burst: 20,
        max_connections_per_address: 2,
        ..EdgeConfig::default()
    };
    let edge = Edge::start_with(limited, |_| Some(Box::new(Echo))).unwrap();
    let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
    let (flooder, other, third) = (dial(&address), dial(&address), dial(&address));
    for number in 0..200u8 {
        flooder.send(&[number]).unwrap();
    }
    until("the flood is counted", || {
        counter(&edge, "datagrams_in") == 200
    });
    let taken = counter(&edge, "packets_in");
    assert!((20..40).contains(&taken), "{taken}");
    assert_eq!(counter(&edge, "datagrams_over_rate"), 200 - taken);
    exchange(&other, &[b"all is well".to_vec()]);
    third.send(b"one too many of this machine").unwrap();
    until("the third is refused", || {
        counter(&edge, "refused_address") == 1
    });
}

#[test]
fn a_paused_address_is_not_heard_and_not_idle() {
    let edge = Edge::start(EdgeConfig {
        idle_ms: 2_000,
        ..EdgeConfig::default()
    })
    .unwrap();
    let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
    let (socket, mut rows) = (dial(&address), Vec::new());
    socket.send(b"one").unwrap();
    rows_until(&edge, &mut rows, |rows| rows.len() == 2);
    let id = rows[0].0;
    edge.pause(id);
    until("it is dropped", || {
        socket.send(b"not now").unwrap();
        std::thread::sleep(Duration::from_millis(1));
        counter(&edge, "datagrams_paused") > 3
    });
    let taken = counter(&edge, "packets_in");
    let refused = counter(&edge, "datagrams_refused");
    assert_eq!(refused, counter(&edge, "datagrams_paused"));
    assert_eq!(counter(&edge, "datagrams_in"), taken + refused);
    // Far longer than the idle time-out.
    std::thread::sleep(Duration::from_millis(4_500));
    assert_eq!((edge.connections(), counter(&edge, "closed_idle")), (1, 0));
    edge.resume(id);
    rows_until(&edge, &mut rows, |rows| {
        socket.send(b"again").unwrap();
        rows.last().unwrap().2 == b"again"
    });
    assert_eq!(rows.last().unwrap().0, id);
    rows_until(&edge, &mut rows, |rows| {
        rows.last().unwrap().1 == KIND_CLOSE
    });
}

/// Answers with a thousand bytes, to who asks for a flood 4,000 times; counts what is refused.
struct Flood(Arc<AtomicUsize>);

const FLOOD: usize = 4_000;

impl Handler for Flood {
    fn traffic(&mut self, connection: u64, _: Header, payload: &[u8], out: &mut Out<'_>) {
        let answers = if payload == b"flood" { FLOOD } else { 1 };
        for _ in 0..answers {
            let write = Write {
                connection,
                kind: 0,
                sequence: 0,
                payload: &[7; 1_000],
            };
            let refused = usize::from(!out.send(write));
            self.0.fetch_add(refused, Ordering::Relaxed);
        }
    }
}

#[test]
fn one_address_has_a_bound_and_a_share_of_its_port() {
    use OutboundPolicy::{Close, DropNewest};
    for (bound, policy) in [(100_000, Close), (100_000, DropNewest), (1 << 26, Close)] {
        let refused = Arc::new(AtomicUsize::new(0));
        let config = EdgeConfig {
            max_outbound_bytes: bound,
            outbound_policy: policy,
            ..EdgeConfig::default()
        };
        let flood = Arc::clone(&refused);
        let edge = Edge::start_with(config, |_| Some(Box::new(Flood(Arc::clone(&flood))))).unwrap();
        let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
        let (flooded, other) = (dial(&address), dial(&address));
        flooded.send(b"flood").unwrap();
        let lost = match (bound, policy) {
            // At the bound it ends; whatever is sent to it from then on is for nobody.
            (100_000, Close) => {
                until("it is closed", || counter(&edge, "closed_full") == 1);
                until("the rest is refused", || {
                    refused.load(Ordering::Relaxed) == FLOOD - 100
                });
                assert_eq!(edge.connections(), 0);
                0
            }
            (100_000, _) => {
                until("dropped", || counter(&edge, "dropped_policy") == 3_900);
                assert_eq!(refused.load(Ordering::Relaxed), 3_900);
                0
            }
            // Its share of the port is what is left of so large a bound.
            _ => {
                let share = (2 << 20) / 1_000;
                until("lost", || counter(&edge, "packets_out") == FLOOD as u64);
                (FLOOD - share) as u64
            }
        };
        assert_eq!(counter(&edge, "datagrams_refused"), lost);
        other.send(b"one").unwrap();
        let mut buffer = [0; 2_000];
        assert_eq!(other.recv(&mut buffer).unwrap(), 1_000);
        assert!(edge.outbound_bytes() == 0);
    }
}

#[test]
fn ports_and_addresses_count_as_memory() {
    let small = EdgeConfig {
        max_memory_bytes: 1 << 20,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(small).unwrap();
    let error = edge.listen_udp_plain("127.0.0.1:0").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert!(
        error.to_string().contains("max_memory_bytes is 1048576"),
        "{error}"
    );
    let error = edge
        .listen_udp("127.0.0.1:0", None, 1, [1; 32])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(edge.memory_bytes(), 0);

    // Slots for datagrams, and what may always wait.
    let port_bytes = 64 * 65_535 + (128 << 10);
    let room_for_two = EdgeConfig {
        max_memory_bytes: port_bytes + 1_200,
        ..EdgeConfig::default()
    };
    let edge = Edge::start_with(room_for_two, |_| Some(Box::new(Echo))).unwrap();
    let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
    assert_eq!(edge.memory_bytes(), port_bytes);
    let known = [dial(&address), dial(&address)];
    for socket in &known {
        exchange(socket, &[vec![1; 50]]);
    }
    dial(&address).send(b"a third").unwrap();
    until("refused", || counter(&edge, "refused_memory") == 1);
    // Over the bound because of what waited, those who are known are served.
    for socket in &known {
        exchange(socket, &[vec![2; 1_000], vec![3; 20_000]]);
    }
    edge.stop(100);
    assert_eq!(edge.memory_bytes(), 0);
}

#[test]
fn what_was_sent_before_the_stop_goes_out() {
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
    let socket = dial(&address);
    socket.send(b"hello").unwrap();
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, |rows| rows.len() == 2);
    let last = Write {
        connection: rows[0].0,
        kind: 0,
        sequence: 0,
        payload: b"goodbye",
    };
    assert_eq!(edge.send([last]), 0);
    edge.stop(1_000);
    let mut buffer = [0; 10];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"goodbye");
    rows_until(&edge, &mut rows, |rows| {
        rows.last().is_some_and(|row| row.1 == KIND_CLOSE)
    });
    assert!(edge.listen_udp_plain("127.0.0.1:0").is_err());
}

#[test]
fn addresses_that_can_not_be_are_errors() {
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let address = edge.listen_udp_plain("127.0.0.1:0").unwrap();
    let taken = edge.listen_udp_plain(&address).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    assert!(edge.listen_udp_plain("nonsense").is_err());
    assert!(edge.listen_udp_plain("192.0.2.1:0").is_err());
}
