//! The life of connections: every open has its close and its reason, however the client goes; slow ones,
//! deaf ones and half-closed ones lose nothing and cost the others nothing.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;
use zmqgame_core::stream::packet::{Header, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};
use zmqgame_reactor::edge::{Edge, Write};

use crate::clients::{Client, Folder, Random, TRANSPORTS, Transport, dial, listen, tcp, tls};
use crate::common::{count, reasons, rows_until, until};
use crate::echo::{WAYS, Way, with_echo};

pub fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[test]
fn every_open_has_its_close_and_its_reason() {
    for loops in [1, 3] {
        let config = EdgeConfig {
            loops,
            ..EdgeConfig::default()
        };
        let edge = Edge::start(config).unwrap();
        let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
        let (mut rows, mut kept) = (Vec::new(), Vec::new());
        for index in 0..40 {
            let mut stream = tcp(&address);
            stream.write_all(b"hello").unwrap();
            kept.push((index, stream));
        }
        rows_until(&edge, &mut rows, |rows| count(rows, 0) == 40);
        let id_of = |stream: &TcpStream| {
            let peer = Some(stream.local_addr().unwrap().to_string());
            rows.iter()
                .map(|row| row.0)
                .find(|id| edge.peer(*id) == peer)
                .unwrap()
        };
        for (index, mut stream) in kept {
            match index % 4 {
                0 => drop(stream),
                1 => stream.shutdown(Shutdown::Write).unwrap(),
                2 => reset(stream),
                _ => {
                    edge.close(id_of(&stream), "enough");
                    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
                }
            }
        }
        rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 40);
        let mut lives: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (connection, kind, _) in &rows {
            lives.entry(*connection).or_default().push(*kind);
        }
        assert_eq!(lives.len(), 40);
        assert!(
            lives
                .values()
                .all(|life| life == &[KIND_OPEN, 0, KIND_CLOSE])
        );
        let reasons = reasons(&rows);
        assert_eq!(reasons[0], "closed by the client");
        let reset = "connection broken: connection reset".to_owned();
        assert!(reasons.contains(&reset), "{reasons:?}");
        assert!(reasons.contains(&"closed by the server: enough".to_owned()));
        until("all gone", || edge.connections() == 0);
        assert_eq!(edge.memory_bytes(), 0);
        assert_eq!(edge.outbound_bytes(), 0);
        assert_eq!(edge.connections_of_loops(), vec![0; loops]);
    }
}

#[test]
fn a_half_closed_client_gets_all_its_answers() {
    for transport in [Transport::Tcp, Transport::Unix, Transport::Tls] {
        let folder = Folder::new(&format!("half-{transport:?}"));
        with_echo(EdgeConfig::default(), Way::Handler, |edge| {
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
        with_echo(EdgeConfig::default(), Way::Handler, |edge| {
            let framing = match transport {
                Transport::WebSocket | Transport::Wss => Framing::Packets,
                _ => Framing::Raw,
            };
            let place = listen(edge, transport, framing.clone(), &folder);
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
            let bytes = Random::new(3).bytes(80);
            let mut back = Vec::new();
            for byte in &bytes {
                stream.write_all(&[*byte]).unwrap();
                stream.flush().unwrap();
                let mut one = [0];
                stream.read_exact(&mut one).unwrap();
                back.push(one[0]);
            }
            assert_eq!(back, bytes);
        });
    }
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
    let config = EdgeConfig {
        idle_ms: 150,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let (mut rows, mut client) = (Vec::new(), tcp(&address));
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
    let id = rows[0].0;
    edge.pause(id);
    // Its loop has paused it once it has done what was asked after that.
    let mark = Write {
        connection: id,
        kind: 0,
        sequence: 0,
        payload: b"paused",
    };
    assert_eq!(edge.send([mark]), 0);
    client.read_exact(&mut [0; 6]).unwrap();
    client.write_all(b"for later").unwrap();
    std::thread::sleep(Duration::from_millis(400));
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
