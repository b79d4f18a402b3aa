//! Limits: each is hit, tells so, and costs nobody else anything.

use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use zmqgame_core::stream::packet::{KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::{
    Balance, EdgeConfig, Framing, ListenOptions, OutboundPolicy, Proxies,
};
use zmqgame_reactor::edge::{Edge, Write};

use crate::clients::{Duplex, Folder, TRANSPORTS, Transport, dial, listen, tcp, tls};
use crate::common::{count, counter, reasons, rows_until, until};
use crate::echo::{Way, with_echo};

fn is_closed(mut stream: TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

/// A connection of another of this machine's own addresses.
fn tcp_from(own: &str, address: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let from: std::net::SocketAddr = format!("{own}:0").parse().unwrap();
    let to: std::net::SocketAddr = address.parse().unwrap();
    let made = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&made, &from).unwrap();
    connect(&made, &to).unwrap();
    made.into()
}

fn proxied(address: &str) -> Vec<u8> {
    let address: std::net::SocketAddrV4 = address.parse().unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(address.ip().octets());
    header.extend([127, 0, 0, 1]);
    header.extend(address.port().to_be_bytes());
    header.extend([0, 80]);
    header
}

#[test]
fn connections_are_limited_in_all_and_for_each_address() {
    let config = EdgeConfig {
        max_connections: 3,
        max_connections_per_address: 2,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let mut options = ListenOptions::from(Framing::Raw);
    options.proxy_protocol = Proxies::Any;
    let address = edge.listen_tcp("127.0.0.1:0", options).unwrap();
    let from = |client: &str| {
        let mut stream = tcp(&address);
        stream.write_all(&proxied(client)).unwrap();
        stream
    };
    let mut rows = Vec::new();
    let first = from("192.0.2.1:1");
    let second = from("192.0.2.1:2");
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 2);
    assert!(is_closed(from("192.0.2.1:3")));
    assert_eq!(counter(&edge, "refused_address"), 1);
    let _third = from("192.0.2.2:1");
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 3);
    assert!(is_closed(from("192.0.2.3:1")));
    assert_eq!(counter(&edge, "refused_connections"), 1);
    drop(first);
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
    until("a place is free", || edge.connections() == 2);
    let _again = from("192.0.2.1:4");
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 4);
    drop(second);
}

#[test]
fn a_proxy_names_its_clients_and_only_a_proxy_gets_in() {
    let folder = Folder::new("proxy");
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let mut options = ListenOptions::from(Framing::Raw);
    options.proxy_protocol = Proxies::Any;
    let address = edge.listen_tcp("127.0.0.1:0", options.clone()).unwrap();
    let mut rows = Vec::new();
    // Byte by byte, and the client's first bytes right behind.
    let mut stream = tcp(&address);
    for byte in [proxied("192.0.2.7:4000").as_slice(), b"hello"].concat() {
        stream.write_all(&[byte]).unwrap();
    }
    rows_until(&edge, &mut rows, |rows| {
        !rows.iter().any(|r| r.1 == 0 && r.2.is_empty())
            && rows
                .iter()
                .filter(|r| r.1 == 0)
                .map(|r| r.2.len())
                .sum::<usize>()
                == 5
    });
    assert_eq!(edge.peer(rows[0].0).unwrap(), "192.0.2.7:4000");
    // LOCAL: the proxy itself.
    let mut own = tcp(&address);
    own.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").unwrap();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 2);
    let id = rows.iter().rfind(|row| row.1 == KIND_OPEN).unwrap().0;
    assert_eq!(
        edge.peer(id).unwrap(),
        own.local_addr().unwrap().to_string()
    );
    // Neither of those.
    let mut bare = tcp(&address);
    bare.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(is_closed(bare));
    assert_eq!(counter(&edge, "bad_proxy"), 1);
    // One that does not go on, at an edge that waits for nobody.
    let hasty = EdgeConfig {
        handshake_ms: 300,
        ..EdgeConfig::default()
    };
    let hasty = Edge::start(hasty).unwrap();
    let mut half = tcp(&hasty.listen_tcp("127.0.0.1:0", options.clone()).unwrap());
    half.write_all(&proxied("192.0.2.7:1")[..20]).unwrap();
    assert!(is_closed(half));
    until("it is counted", || counter(&hasty, "closed_handshake") == 1);
    // In front of TLS.
    options.tls = Some(folder.certificate("localhost"));
    let secret = edge.listen_tcp("127.0.0.1:0", options).unwrap();
    let mut cut = tcp(&secret);
    cut.write_all(&proxied("192.0.2.8:1")).unwrap();
    cut.write_all(b"not TLS").unwrap();
    // An alert, and the end.
    let _ = cut.read_to_end(&mut Vec::new());
    assert_eq!(counter(&edge, "bad_tls"), 1);
}

#[test]
fn only_listed_proxies_are_believed() {
    let folder = Folder::new("proxies");
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let mut options = ListenOptions::from(Framing::Raw);
    options.proxy_protocol = Proxies::of(&["192.0.2.0/24", "127.0.0.2"]).unwrap();
    // Both families on one port: IPv4 addresses come as mapped ones.
    let address = edge.listen_tcp("[::]:0", options.clone()).unwrap();
    let port = address.rsplit_once(':').unwrap().1;
    let mut stranger = tcp(&format!("127.0.0.1:{port}"));
    let _ = stranger.write_all(&proxied("192.0.2.1:1"));
    assert!(is_closed(stranger));
    assert_eq!(counter(&edge, "refused_proxy"), 1);
    assert_eq!((counter(&edge, "accepted"), edge.connections()), (0, 0));
    let mut proxy = tcp_from("127.0.0.2", &format!("127.0.0.1:{port}"));
    proxy.write_all(&proxied("192.0.2.1:1")).unwrap();
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
    assert_eq!(edge.peer(rows[0].0).unwrap(), "192.0.2.1:1");
    // A Unix socket has no networks; whoever may open its file is the proxy.
    let path = folder.path().join("proxy.sock");
    let error = edge.listen_unix(&path, options.clone()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    options.proxy_protocol = Proxies::Any;
    edge.listen_unix(&path, options).unwrap();
    let mut local = std::os::unix::net::UnixStream::connect(&path).unwrap();
    local.write_all(&proxied("192.0.2.2:2")).unwrap();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 2);
    let id = rows.iter().rfind(|row| row.1 == KIND_OPEN).unwrap().0;
    assert_eq!(edge.peer(id).unwrap(), "192.0.2.2:2");
}

#[test]
fn who_sends_too_much_is_read_later_and_loses_nothing() {
    for (packets_per_s, bytes_per_s) in [(0, 200_000), (400, 0)] {
        let config = EdgeConfig {
            packets_per_s,
            packets_burst: packets_per_s / 4,
            bytes_per_s,
            bytes_burst: 10_000,
            ..EdgeConfig::default()
        };
        with_echo(config, Way::Handler, |edge| {
            let rule = zmqgame_core::stream::frame::Framing::fixed(500).unwrap();
            let framing = Framing::Frames(std::sync::Arc::new(rule));
            let address = edge.listen_tcp("127.0.0.1:0", framing).unwrap();
            let (mut stream, start) = (tcp(&address), Instant::now());
            let bytes: Vec<u8> = (0..150_000_u32).map(|n| (n % 251) as u8).collect();
            let mut writer = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&bytes).unwrap());
                let mut back = vec![0; bytes.len()];
                stream.read_exact(&mut back).unwrap();
                assert!(back == bytes);
            });
            // 300 packets at 400 a second; 150,000 bytes at 200,000 a second: less the burst and one read.
            assert!(start.elapsed() >= Duration::from_millis(200));
            assert!(counter(edge, "throttled") > 0);
        });
    }
}

#[test]
fn what_happens_at_the_outbound_bound_is_a_choice() {
    for policy in [
        OutboundPolicy::Close,
        OutboundPolicy::DropNewest,
        OutboundPolicy::DropDroppable,
    ] {
        let config = EdgeConfig {
            max_outbound_bytes: 100_000,
            outbound_policy: policy,
            droppable_kinds: [5].into_iter().collect(),
            ..EdgeConfig::default()
        };
        let edge = Edge::start(config).unwrap();
        let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
        let mut client = tcp(&address);
        let mut rows = Vec::new();
        rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
        let payload = vec![1; 10_000];
        let write = |kind| Write {
            connection: rows[0].0,
            kind,
            sequence: 0,
            payload: &payload,
        };
        // Until sockets and bound are full.
        let start = Instant::now();
        while edge.send([write(5)]) == 0 {
            assert!(start.elapsed() < crate::common::DEADLINE);
        }
        match policy {
            OutboundPolicy::Close => {
                rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
                assert!(reasons(&rows)[0].starts_with("full: more than 100000 bytes"));
            }
            OutboundPolicy::DropNewest => {
                assert!(counter(&edge, "dropped_policy") >= 1);
                let mut some = vec![0; 50_000];
                client.read_exact(&mut some).unwrap();
                until("it can be sent to again", || edge.send([write(5)]) == 0);
                assert_eq!(count(&rows, KIND_CLOSE), 0);
            }
            OutboundPolicy::DropDroppable => {
                assert!(counter(&edge, "dropped_policy") >= 1);
                // Those that may not be dropped have room still.
                assert_eq!(edge.send([write(1)]), 0);
                while edge.send([write(1)]) == 0 {
                    assert!(start.elapsed() < crate::common::DEADLINE);
                }
                rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
                assert!(reasons(&rows)[0].starts_with("full: "));
            }
        }
    }
}

/// As much of a packet, or of a message, as makes its connection keep it: the rest does not come.
fn half_of(transport: Transport) -> Vec<u8> {
    let mut bytes = match transport {
        Transport::WebSocket | Transport::Wss => {
            let mut request = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Version: 13\r\n\r\n"
                .to_vec();
            // A binary message of 64,900 bytes, masked with zeros.
            request.extend([0x82, 0xfe, 0xfd, 0x84, 0, 0, 0, 0]);
            request
        }
        _ => 64_900_u32.to_le_bytes().to_vec(),
    };
    bytes.resize(bytes.len() + 60_000, 0);
    bytes
}

#[test]
fn all_buffers_together_have_a_bound() {
    const LIMIT_BYTES: usize = 300_000;
    for transport in TRANSPORTS {
        let folder = Folder::new(&format!("memory-{transport:?}"));
        let config = EdgeConfig {
            max_memory_bytes: LIMIT_BYTES,
            ..EdgeConfig::default()
        };
        let edge = Edge::start(config).unwrap();
        let place = listen(&edge, transport, Framing::Packets, &folder);
        let (half, mut rows, mut kept) = (half_of(transport), Vec::new(), Vec::new());
        let over =
            |edge: &Edge| counter(edge, "closed_memory") > 0 || counter(edge, "refused_memory") > 0;
        for sent in 1..=8 {
            let secret = matches!(transport, Transport::Tls | Transport::Wss);
            let mut client: Box<dyn Duplex> = if secret {
                // Its handshake may be too much already.
                match tls(&place.address, &place.authorities) {
                    Ok(stream) => Box::new(stream),
                    Err(_) => break,
                }
            } else {
                dial(&place)
            };
            // It may be closed before all of it is taken.
            let _ = client.write_all(&half).and_then(|()| client.flush());
            kept.push(client);
            until("it is taken, or one is closed", || {
                over(&edge) || edge.memory_bytes() > sent * 60_000
            });
            if over(&edge) {
                break;
            }
        }
        until("somebody was too much", || over(&edge));
        let bound = format!("memory: the buffers of all have more than {LIMIT_BYTES} bytes");
        if matches!(transport, Transport::Tcp | Transport::WebSocket) {
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) >= 1);
            assert!(reasons(&rows).iter().all(|reason| *reason == bound));
        }
        until("what is kept is within the bound", || {
            edge.memory_bytes() <= LIMIT_BYTES
        });
        drop(kept);
        until("all is given back", || edge.memory_bytes() == 0);
    }
}

#[test]
fn handshakes_are_within_the_bound_of_all_buffers() {
    let folder = Folder::new("memory-handshakes");
    let config = EdgeConfig {
        max_memory_bytes: 65_536,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let place = listen(&edge, Transport::Tls, Framing::Packets, &folder);
    let (mut kept, mut made) = (Vec::new(), 0);
    // The client's side may be done before the server's is refused.
    while counter(&edge, "refused_memory") + counter(&edge, "closed_memory") == 0 {
        kept.push(tls(&place.address, &place.authorities));
        made += 1;
        assert!(made < 16, "TLS takes 4 KiB and more");
    }
    assert!(made > 2);
    drop(kept);
    until("all is given back", || edge.memory_bytes() == 0);
    // A handshake message of 60,000 bytes that does not come to its end counts while it is kept.
    let mut piece = vec![22, 3, 3, 0x3e, 0x80, 1, 0, 0xea, 0x60];
    piece.resize(16_005, 0);
    let mut clients: Vec<_> = (0..4).map(|_| tcp(&place.address)).collect();
    for client in &mut clients {
        // A record of its own each; who comes too late is cut off.
        let next = [&[22, 3, 3, 0x3e, 0x80][..], &[0; 16_000]].concat();
        let _ = client.write_all(&[&piece[..], &next].concat());
    }
    until("one is too much", || counter(&edge, "closed_memory") >= 1);
}

#[test]
fn connections_are_balanced() {
    let mut kept = Vec::new();
    for balance in [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::SourceHash,
    ] {
        let config = EdgeConfig {
            loops: 3,
            balance,
            ..EdgeConfig::default()
        };
        let edge = Edge::start(config).unwrap();
        let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
        let mut rows = Vec::new();
        kept.extend((0..9).map(|_| tcp(&address)));
        rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 9);
        let mut loops = edge.connections_of_loops();
        loops.sort_unstable();
        match balance {
            Balance::SourceHash => assert_eq!(loops, [0, 0, 9]),
            _ => assert_eq!(loops, [3, 3, 3]),
        }
        if balance == Balance::LeastConnections {
            let first = rows[0].0;
            let owner = |id: u64| (id >> 24) & 255;
            let of_first = rows
                .iter()
                .map(|row| row.0)
                .filter(|id| owner(*id) == owner(first));
            of_first.for_each(|id| edge.close(id, "to make room"));
            until("one has none", || edge.connections_of_loops().contains(&0));
            kept.extend((0..3).map(|_| tcp(&address)));
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 12);
            assert_eq!(edge.connections_of_loops(), [3, 3, 3]);
        }
    }
}

#[test]
fn a_port_can_be_shared() {
    let mut options = ListenOptions::from(Framing::Raw);
    options.reuse_port = true;
    options.keepalive_s = 30;
    let edges: Vec<_> = (0..2)
        .map(|_| Edge::start(EdgeConfig::default()).unwrap())
        .collect();
    let address = edges[0].listen_tcp("[::1]:0", options.clone()).unwrap();
    assert_eq!(edges[1].listen_tcp(&address, options).unwrap(), address);
    let again = edges[0].listen_tcp(&address, Framing::Raw).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AddrInUse);
    let _clients: Vec<_> = (0..40).map(|_| tcp(&address)).collect();
    until("both have some", || {
        let all: Vec<_> = edges.iter().map(Edge::connections).collect();
        all.iter().sum::<usize>() == 40 && all.iter().all(|count| *count > 0)
    });
}
