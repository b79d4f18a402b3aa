//! The life of connections: every open has its close and its reason, however the client goes; slow ones,
//! deaf ones and half-closed ones lose nothing and cost the others nothing.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;
use zmqgame_core::stream::packet::{Header, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::{EdgeConfig, Framing, OutboundPolicy};
use zmqgame_reactor::edge::{Edge, Write};

use crate::clients::{Client, Folder, Random, TRANSPORTS, Transport, dial, listen, tcp, tls};
use crate::common::{count, pause, reasons, rows_until, until};
use crate::echo::{WAYS, Way, with_echo};

pub fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// How a connection ends.
#[derive(Clone, Copy)]
enum Fate {
    Gone,
    HalfClosed,
    Reset,
    Closed,
}

const FATES: [Fate; 4] = [Fate::Gone, Fate::HalfClosed, Fate::Reset, Fate::Closed];

/// Connections come, and end in an order and a way that the seed chooses.
#[test]
fn every_open_has_its_close_and_its_reason() {
    for (loops, seed) in [(1, 1), (3, 2), (1, 3), (3, 4)] {
        let config = EdgeConfig {
            loops,
            ..EdgeConfig::default()
        };
        let edge = Edge::start(config).unwrap();
        let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
        let (mut random, mut rows) = (Random::new(seed), Vec::new());
        let (mut there, mut half_closed) = (Vec::new(), Vec::new());
        let (mut come, mut ended) = (0_usize, [0; 4]);
        while come < 80 || !there.is_empty() {
            if come < 80 && (there.len() < 2 || random.below(3) > 0) {
                let mut stream = tcp(&address);
                stream.write_all(&come.to_le_bytes()).unwrap();
                there.push((come.to_le_bytes().to_vec(), stream));
                come += 1;
                continue;
            }
            let (word, mut stream) = there.swap_remove(random.below(there.len()));
            let fate = random.below(FATES.len());
            ended[fate] += 1;
            // A reset throws away what was not read yet.
            rows_until(&edge, &mut rows, |rows| {
                rows.iter().any(|row| row.2 == word)
            });
            match FATES[fate] {
                Fate::Gone => drop(stream),
                Fate::HalfClosed => {
                    stream.shutdown(Shutdown::Write).unwrap();
                    half_closed.push(stream);
                }
                Fate::Reset => reset(stream),
                Fate::Closed => {
                    let id = rows.iter().find(|row| row.2 == word).unwrap().0;
                    edge.close(id, "enough");
                    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
                }
            }
        }
        rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 80);
        let mut lives: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (connection, kind, _) in &rows {
            lives.entry(*connection).or_default().push(*kind);
        }
        assert_eq!(lives.len(), 80);
        assert!(
            lives
                .values()
                .all(|life| life == &[KIND_OPEN, 0, KIND_CLOSE])
        );
        let reasons = reasons(&rows);
        let times = |reason: &str| reasons.iter().filter(|given| *given == reason).count();
        let [gone, half, reset, closed] = ended;
        assert_eq!(times("closed by the client"), gone + half, "seed {seed}");
        let broken = "connection broken: connection reset";
        assert_eq!(times(broken), reset, "seed {seed}");
        assert_eq!(times("closed by the server: enough"), closed, "seed {seed}");
        assert!(ended.iter().all(|count| *count > 0), "seed {seed}");
        until("all gone", || edge.connections() == 0);
        assert_eq!(edge.memory_bytes(), 0);
        assert_eq!(edge.outbound_bytes(), 0);
        assert_eq!(edge.connections_of_loops(), vec![0; loops]);
    }
}

#[test]
fn a_half_closed_client_gets_all_its_answers() {
    let transports = [Transport::Tcp, Transport::Unix, Transport::Tls];
    let ways = [Way::Handler, Way::OtherThread];
    for (transport, way) in transports
        .into_iter()
        .flat_map(|t| ways.map(|way| (t, way)))
    {
        let folder = Folder::new(&format!("half-{transport:?}-{way:?}"));
        with_echo(EdgeConfig::default(), way, |edge| {
            let place = listen(edge, transport, Framing::Raw, &folder);
            let bytes = Random::new(7).bytes(300_000);
            let mut back = Vec::new();
            match transport {
                Transport::Tls => {
                    let mut stream = tls(&place.address, &place.authorities).unwrap();
                    stream.write_all(&bytes[..60_000]).unwrap();
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                    stream.sock.shutdown(Shutdown::Write).unwrap();
                    stream.read_to_end(&mut back).unwrap();
                    assert!(back == bytes[..60_000]);
                }
                Transport::Tcp => {
                    let mut stream = tcp(&place.address);
                    let mut reader = stream.try_clone().unwrap();
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            stream.write_all(&bytes).unwrap();
                            stream.shutdown(Shutdown::Write).unwrap();
                        });
                        reader.read_to_end(&mut back).unwrap();
                    });
                    assert!(back == bytes);
                }
                _ => {
                    let path = &place.address;
                    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                    stream.write_all(&bytes[..50_000]).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    stream.read_to_end(&mut back).unwrap();
                    assert!(back == bytes[..50_000]);
                }
            }
            until("gone", || edge.connections() == 0);
        });
    }
}

#[test]
fn slow_writers_and_readers_get_every_byte() {
    for transport in TRANSPORTS {
        let folder = Folder::new(&format!("slow-{transport:?}"));
        slow_writer(transport, &folder);
        slow_reader(transport, &folder);
    }
}

/// Every byte by itself, or every packet in pieces.
fn slow_writer(transport: Transport, folder: &Folder) {
    with_echo(EdgeConfig::default(), Way::Handler, |edge| {
        let framing = match transport {
            Transport::WebSocket | Transport::Wss => Framing::Packets,
            _ => Framing::Raw,
        };
        let place = listen(edge, transport, framing.clone(), folder);
        if framing == Framing::Packets {
            let mut client = Client::new(&place);
            for sequence in 0..40 {
                let payload = vec![sequence as u8; 300];
                let header = Header { kind: 1, sequence };
                client.send(header, &payload, &mut Random::new(1));
                std::thread::sleep(Duration::from_millis(1));
                assert_eq!(client.receive()[12..], payload);
            }
            return;
        }
        let mut stream = dial(&place);
        for byte in Random::new(3).bytes(80) {
            stream.write_all(&[byte]).unwrap();
            stream.flush().unwrap();
            let mut back = [0];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [byte]);
        }
    });
}

/// Bytes that may wait for a slow reader, beside those in the sockets.
const SLOW_BOUND_BYTES: usize = 200_000;

/// Its window is small and closes; it reads on, with sleeps, long after sockets and bound were full.
fn slow_reader(transport: Transport, folder: &Folder) {
    let config = EdgeConfig {
        idle_ms: 0,
        max_outbound_bytes: SLOW_BOUND_BYTES,
        outbound_policy: OutboundPolicy::DropNewest,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let place = listen(&edge, transport, Framing::Packets, folder);
    let mut client = Client::with_window(&place, 32_768);
    let first = Header {
        kind: 1,
        sequence: 0,
    };
    client.send(first, b"here", &mut Random::new(1));
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, |rows| count(rows, 1) == 1);
    let payload = |sequence: u64| {
        let mut random = Random::new(sequence + 1);
        let count = 1 + random.below(8_000);
        random.bytes(count)
    };
    let send = |sequence| {
        let write = Write {
            connection: rows[0].0,
            kind: 2,
            sequence,
            payload: &payload(sequence),
        };
        edge.send([write]) == 0
    };
    let full = (0..).find(|&sequence| !send(sequence)).unwrap();
    let all = full + 200;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for sequence in 0..all {
                if sequence < 100 || sequence >= full {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let packet = client.receive();
                assert!(packet[12..] == payload(sequence), "packet {sequence}");
            }
        });
        for sequence in full..all {
            until("there is room again", || send(sequence));
        }
    });
    until("nothing waits", || edge.outbound_bytes() == 0);
}

/// The client reads nothing for a while, its window closes, more waits than the sockets hold; then it reads
/// slowly, and everything is there. Others are served meanwhile.
#[test]
fn a_zero_window_holds_only_its_own_connection() {
    for way in WAYS {
        let config = EdgeConfig {
            max_outbound_bytes: 1 << 26,
            ..EdgeConfig::default()
        };
        with_echo(config, way, |edge| {
            let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
            let deaf = tcp(&address);
            let bytes = Random::new(9).bytes(12 << 20);
            std::thread::scope(|scope| {
                let mut writer = deaf.try_clone().unwrap();
                let sent = scope.spawn({
                    let bytes = &bytes;
                    move || writer.write_all(bytes).unwrap()
                });
                until("more waits than sockets hold", || {
                    edge.outbound_bytes() > 1 << 20
                });
                let mut other = tcp(&address);
                for _ in 0..100 {
                    other.write_all(b"still here").unwrap();
                    let mut back = [0; 10];
                    other.read_exact(&mut back).unwrap();
                    assert_eq!(&back, b"still here");
                }
                let (mut reader, mut back) = (deaf, vec![0; bytes.len()]);
                reader.read_exact(&mut back[..100]).unwrap();
                std::thread::sleep(Duration::from_millis(30));
                reader.read_exact(&mut back[100..]).unwrap();
                assert!(back == bytes);
                sent.join().unwrap();
            });
            until("nothing waits", || edge.outbound_bytes() == 0);
        });
    }
}

#[test]
fn a_paused_connection_is_not_read_and_not_idle() {
    // Long enough that a machine which stands still does not end it before it is paused.
    let config = EdgeConfig {
        idle_ms: 4_000,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let (mut rows, mut client) = (Vec::new(), tcp(&address));
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
    let id = rows[0].0;
    pause(&edge, id, &mut client);
    client.write_all(b"for later").unwrap();
    std::thread::sleep(Duration::from_millis(6_000));
    assert_eq!(edge.receive().len(), 0);
    edge.resume(id);
    rows_until(&edge, &mut rows, |rows| count(rows, 0) == 1);
    assert_eq!(rows[1].2, b"for later");
    edge.pause(id);
    reset(client);
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
    assert_eq!(reasons(&rows), ["connection broken: connection reset"]);
}

#[test]
fn a_stop_sends_what_waits_and_tells_everyone() {
    let folder = Folder::new("stop");
    for transport in TRANSPORTS {
        let edge = Edge::start(EdgeConfig::default()).unwrap();
        let place = listen(&edge, transport, Framing::Packets, &folder);
        let mut client = Client::new(&place);
        let header = Header {
            kind: 1,
            sequence: 1,
        };
        client.send(header, b"hello", &mut Random::new(1));
        let mut rows = Vec::new();
        rows_until(&edge, &mut rows, |rows| count(rows, 1) == 1);
        let payload = vec![7; 60_000];
        let write = Write {
            connection: rows[0].0,
            kind: 2,
            sequence: 2,
            payload: &payload,
        };
        assert_eq!(edge.send([write; 8]), 0);
        let rows = std::thread::scope(|scope| {
            let edge = &edge;
            let told = scope.spawn(move || {
                for _ in 0..8 {
                    assert_eq!(client.receive().len(), 60_012);
                }
                // Not before the stop has come to the loop: else it is the client that closes.
                rows_until(edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
                rows
            });
            edge.stop(5_000);
            told.join().unwrap()
        });
        assert_eq!(reasons(&rows), ["the server stops"]);
        assert!(edge.listen_tcp("127.0.0.1:0", Framing::Raw).is_err());
        assert!(edge.connect_tcp("127.0.0.1:9", Framing::Raw, None).is_err());
    }
}
