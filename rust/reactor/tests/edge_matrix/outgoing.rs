//! Connections that the edge makes, and the handler's other calls.

use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use zmqgame_core::stream::packet::{Header, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::{ConnectTls, EdgeConfig, Framing};
use zmqgame_reactor::edge::{Dial, Edge, Handler, Out, WebSocketUrl, Write};

use crate::clients::{Folder, Place, Random, TRANSPORTS, Transport, listen};
use crate::common::{DEADLINE, count, counter, reasons, rows_until, until};
use crate::echo::{Way, with_echo};

/// Connects to where a test's edge listens.
fn connect(edge: &Edge, place: &Place) -> std::io::Result<u64> {
    let port = place.address.rsplit(':').next().unwrap();
    let tls = ConnectTls {
        authorities: place.authorities.clone(),
        server_name: "localhost".to_owned(),
    };
    // The first address of this name refuses where there is IPv6.
    let address = format!("localhost:{port}");
    let url =
        |scheme: &str| WebSocketUrl::parse(&format!("{scheme}://{address}/play?a=b")).unwrap();
    match place.transport {
        Transport::Tcp => edge.connect_tcp(&address, Framing::Packets, None),
        Transport::Tls => edge.connect_tcp(&address, Framing::Packets, Some(&tls)),
        Transport::WebSocket => edge.connect_websocket(&url("ws"), None),
        Transport::Wss => edge.connect_websocket(&url("wss"), Some(&tls)),
        Transport::Unix => edge.connect_unix(Path::new(&place.address), Framing::Packets),
    }
}

#[test]
fn outgoing_connections_are_like_the_others() {
    for transport in TRANSPORTS {
        let folder = Folder::new(&format!("out-{transport:?}"));
        with_echo(EdgeConfig::default(), Way::Handler, |server| {
            let place = listen(server, transport, Framing::Packets, &folder);
            let config = EdgeConfig {
                loops: 2,
                ..EdgeConfig::default()
            };
            let edge = Edge::start(config).unwrap();
            let ids: Vec<_> = (0..6).map(|_| connect(&edge, &place).unwrap()).collect();
            let mut rows = Vec::new();
            let is_websocket = matches!(transport, Transport::WebSocket | Transport::Wss);
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 6);
            for row in &rows {
                let how = String::from_utf8(row.2.clone()).unwrap();
                let has_tls = matches!(transport, Transport::Tls | Transport::Wss);
                assert_eq!(how.contains("\"tls\":\"1.3\""), has_tls, "{how}");
                assert_eq!(how.contains("\"websocket\""), is_websocket, "{how}");
            }
            let mut random = Random::new(5);
            // More than one frame's head, more than sockets take at once, and nothing at all.
            for bytes in [9_000, 65_000, 0, 1, 113, 114] {
                let payloads: Vec<_> = ids.iter().map(|_| random.bytes(bytes)).collect();
                let writes = ids.iter().zip(&payloads).map(|(id, payload)| Write {
                    connection: *id,
                    kind: 3,
                    sequence: 1,
                    payload,
                });
                assert_eq!(edge.send(writes), 0);
                rows.clear();
                rows_until(&edge, &mut rows, |rows| count(rows, 3) == 6);
                for (id, payload) in ids.iter().zip(&payloads) {
                    assert!(rows.contains(&(*id, 3, payload.clone())));
                }
            }
            edge.close(ids[0], "done");
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
            until("the server sees it", || server.connections() == 5);
            server.stop(10_000);
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 6);
            until("nothing is left", || edge.connections() == 0);
            assert_eq!((edge.memory_bytes(), edge.outbound_bytes()), (0, 0));
        });
    }
}

/// Servers that are no WebSocket, or none for us.
#[test]
fn a_websocket_that_is_none_is_told() {
    let config = EdgeConfig {
        connect_ms: 3_000,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    let url = WebSocketUrl::parse(&url).unwrap();
    let answers = [
        "HTTP/1.1 404 Not Found\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "not HTTP\r\n\r\n",
        // Nothing, until its time is over.
        "",
    ];
    let mut held = Vec::new();
    for answer in answers {
        let id = edge.connect_websocket(&url, None).unwrap();
        let (mut stream, _) = server.accept().unwrap();
        let mut request = [0; 16];
        stream.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"GET / HTTP/1.1\r\n");
        stream.write_all(answer.as_bytes()).unwrap();
        held.push(stream);
        let mut rows = Vec::new();
        rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
        assert_eq!((rows.len(), rows[0].0), (1, id));
        let reason = &reasons(&rows)[0];
        let expected = if answer.is_empty() {
            "connect: not connected in 3000 ms"
        } else {
            "connect: bad WebSocket answer: "
        };
        assert!(reason.starts_with(expected), "{reason}");
    }
    assert_eq!(counter(&edge, "connects_failed"), 4);
    let secret = WebSocketUrl::parse("wss://localhost:1/").unwrap();
    let error = edge.connect_websocket(&secret, None).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    until("nothing is left", || edge.connections() == 0);
}

#[test]
fn who_can_not_be_reached_is_told() {
    let config = EdgeConfig {
        connect_ms: 2_000,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    // Bound, and gone again.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = edge.connect_tcp(&gone.to_string(), Framing::Raw, None);
    let mut rows = Vec::new();
    match refused {
        Ok(id) => {
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
            assert_eq!(rows[0].0, id);
            assert_eq!(reasons(&rows), ["connect: connection refused"]);
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused),
    }
    // A server that never does its part of TLS.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new("silent");
    let tls = zmqgame_reactor::edge::config::ConnectTls {
        authorities: folder.certificate("localhost").certificate,
        server_name: "localhost".to_owned(),
    };
    let address = silent.local_addr().unwrap().to_string();
    let before = count(&rows, KIND_CLOSE);
    edge.connect_tcp(&address, Framing::Raw, Some(&tls))
        .unwrap();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) > before);
    assert!(reasons(&rows).contains(&"connect: not connected in 2000 ms".to_owned()));
    assert!(
        edge.connect_tcp("no such name:1", Framing::Raw, None)
            .is_err()
    );
    until("nothing is left", || edge.connections() == 0);
}

/// Tells what it is called for.
struct Told {
    told: Sender<String>,
    server: String,
    ticks: u64,
}

impl Told {
    fn tell(&self, what: impl Into<String>) {
        let _ = self.told.send(what.into());
    }
}

impl Handler for Told {
    fn boot(&mut self, out: &mut Out<'_>) -> Option<u64> {
        self.tell("boot");
        let dial = Dial::tcp(&self.server, Framing::Raw, None).unwrap();
        out.connect(dial).unwrap();
        Some(1)
    }

    fn open(&mut self, connection: u64, how: &str, out: &mut Out<'_>) {
        self.tell(format!("open {}", how.contains("tcp")));
        let header = Header {
            kind: 0,
            sequence: 0,
        };
        assert!(out.send_vectored(connection, header, &[b"one ", b"two"]));
    }

    fn traffic(&mut self, connection: u64, _header: Header, payload: &[u8], out: &mut Out<'_>) {
        self.tell(String::from_utf8_lossy(payload));
        out.close(connection, "seen");
    }

    fn close(&mut self, _connection: u64, reason: &str, _out: &mut Out<'_>) {
        self.tell(format!("close {reason}"));
    }

    fn tick(&mut self, _now_ms: u64, _out: &mut Out<'_>) -> Option<u64> {
        self.ticks += 1;
        self.tell(format!("tick {}", self.ticks));
        (self.ticks < 3).then_some(self.ticks * 2)
    }

    fn woken(&mut self, _out: &mut Out<'_>) {
        self.tell("woken");
    }

    fn shutdown(&mut self, _out: &mut Out<'_>) {
        self.tell("shutdown");
    }
}

#[test]
fn a_handler_is_called_for_everything() {
    with_echo(EdgeConfig::default(), Way::Handler, |server| {
        let address = server.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
        let (told, all) = channel();
        let told = Mutex::new(Some(told));
        let edge = Edge::start_with(EdgeConfig::default(), |_| {
            let told = told.lock().unwrap().take().unwrap();
            Some(Box::new(Told {
                told,
                server: address.clone(),
                ticks: 0,
            }))
        })
        .unwrap();
        let mut seen = Vec::new();
        let expected = [
            "boot",
            "open true",
            "one two",
            "close closed by the server: seen",
            "tick 1",
            "tick 2",
            "tick 3",
        ];
        while seen.len() < expected.len() {
            seen.push(all.recv_timeout(DEADLINE).unwrap());
        }
        for what in expected {
            assert!(seen.contains(&what.to_owned()), "{what}: {seen:?}");
        }
        edge.wake();
        assert_eq!(all.recv_timeout(DEADLINE).unwrap(), "woken");
        edge.stop(100);
        assert_eq!(all.recv_timeout(DEADLINE).unwrap(), "shutdown");
    });
}
