//! Connections that the edge makes, and the handler's other calls.

use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use zmqgame_core::stream::packet::{Header, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};
use zmqgame_reactor::edge::{Dial, Edge, Handler, Out, Write};

use crate::clients::{Folder, Random, Transport, listen};
use crate::common::{DEADLINE, count, reasons, rows_until, until};
use crate::echo::{Way, with_echo};

#[test]
fn outgoing_connections_are_like_the_others() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let folder = Folder::new(&format!("out-{transport:?}"));
        with_echo(EdgeConfig::default(), Way::Handler, |server| {
            let place = listen(server, transport, Framing::Packets, &folder);
            let config = EdgeConfig {
                loops: 2,
                ..EdgeConfig::default()
            };
            let edge = Edge::start(config).unwrap();
            let ids: Vec<_> = (0..6)
                .map(|_| match transport {
                    Transport::Unix => {
                        let path = std::path::Path::new(&place.address);
                        edge.connect_unix(path, Framing::Packets).unwrap()
                    }
                    _ => {
                        let port = place.address.rsplit(':').next().unwrap();
                        // Its first address refuses where there is IPv6.
                        let address = format!("localhost:{port}");
                        edge.connect_tcp(&address, Framing::Packets, None).unwrap()
                    }
                })
                .collect();
            let mut rows = Vec::new();
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 6);
            let mut random = Random::new(5);
            let payloads: Vec<_> = ids.iter().map(|_| random.bytes(9_000)).collect();
            let writes = ids.iter().zip(&payloads).map(|(id, payload)| Write {
                connection: *id,
                kind: 3,
                sequence: 1,
                payload,
            });
            assert_eq!(edge.send(writes), 0);
            rows_until(&edge, &mut rows, |rows| count(rows, 3) == 6);
            for (id, payload) in ids.iter().zip(&payloads) {
                assert!(rows.contains(&(*id, 3, payload.clone())));
            }
            edge.close(ids[0], "done");
            rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
            until("the server sees it", || server.connections() == 5);
        });
    }
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
