//! netcode sessions through a real socket, with core's client at the other end.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zmqgame_core::edge::netcode::client::{Client, State};
use zmqgame_core::edge::netcode::token::{ConnectToken, TokenEntropy, TokenSpec};
use zmqgame_core::stream::packet::{Header, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::EdgeConfig;
use zmqgame_reactor::edge::{Edge, Write};

use common::Echo;

const PROTOCOL: u64 = 0x7a6d_7167;
const KEY: [u8; 32] = [7; 32];
const DEADLINE: Duration = Duration::from_secs(15);

struct Player {
    socket: UdpSocket,
    session: Client,
    start: Instant,
    got: Vec<Vec<u8>>,
}

impl Player {
    fn new(server: &str, client_id: u64) -> Self {
        let create_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut user_data = [0; 256];
        user_data[..4].copy_from_slice(b"\x03ada");
        let spec = TokenSpec {
            protocol_id: PROTOCOL,
            create_s,
            expire_s: create_s + 30,
            timeout_s: 5,
            client_id,
            servers: &[server.parse().unwrap()],
            user_data: &user_data,
        };
        let random = std::array::from_fn(|index| index as u8 ^ client_id as u8);
        let token = ConnectToken::generate(&spec, &KEY, TokenEntropy::from_bytes(&random)).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let mut session = Client::new(&token.write()[..]).unwrap();
        session.start(0);
        Self {
            socket,
            session,
            start: Instant::now(),
            got: Vec::new(),
        }
    }

    fn turn(&mut self) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        self.session.handle_timeout(now_ms);
        while let Some((to, bytes)) = self.session.poll_datagram() {
            self.socket.send_to(bytes, to).unwrap();
        }
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let payload = self
                .session
                .handle_datagram(now_ms, from, &mut buffer[..length]);
            if let Some(payload) = payload {
                self.got.push(payload.to_vec());
            }
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            assert!(
                self.start.elapsed() < DEADLINE,
                "{what}: {:?}",
                self.session.state()
            );
            self.turn();
        }
    }

    fn send(&mut self, kind: u8, sequence: u64, payload: &[u8]) {
        let mut packet = Vec::new();
        Header { kind, sequence }.write(&mut packet);
        packet.extend_from_slice(payload);
        let now_ms = self.start.elapsed().as_millis() as u64;
        self.session.send(now_ms, &packet).unwrap();
    }
}

fn count(edge: &Edge, name: &str) -> u64 {
    let snapshot = edge.counters().snapshot();
    snapshot
        .into_iter()
        .find(|(counter, _)| *counter == name)
        .unwrap()
        .1
}

#[test]
fn sessions_open_echo_and_end_and_garbage_does_not_matter() {
    let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(Echo))).unwrap();
    let address = edge.listen_udp("127.0.0.1:0", None, PROTOCOL, KEY).unwrap();
    let mut players: Vec<Player> = (1..=20).map(|id| Player::new(&address, id)).collect();
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (index, player) in players.iter_mut().enumerate() {
        for length in [0, 1, 17, 18, 1078, 1400] {
            noise.send_to(&vec![index as u8; length], &address).unwrap();
        }
        player.until("connected", |player| {
            player.session.state() == State::Connected
        });
        player.send(3, index as u64, &[index as u8; 1188]);
        player.until("echo", |player| player.got.len() == 1);
        assert_eq!(player.got[0][4..12], (index as u64).to_le_bytes());
        assert_eq!(player.got[0][12..], [index as u8; 1188]);
    }
    assert_eq!(edge.connections(), 20);
    assert_eq!(count(&edge, "datagrams_refused"), 120);
    players[0].session.disconnect(1_000_000);
    players[0].turn();
    let start = Instant::now();
    while edge.connections() != 19 {
        assert!(start.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(2));
    }
    edge.stop(1_000);
    for player in &mut players[1..] {
        player.until("told of the stop", |player| {
            player.session.state() == State::Disconnected
        });
    }
}

fn rows_until(edge: &Edge, rows: &mut Vec<(u64, u8, Vec<u8>)>, kind: u8) {
    let start = Instant::now();
    while !rows.iter().any(|row| row.1 == kind) {
        assert!(
            start.elapsed() < DEADLINE,
            "no row of kind {kind}: {rows:?}"
        );
        edge.wait(100).unwrap();
        let batch = edge.receive();
        rows.extend((0..batch.len()).map(|row| {
            (
                batch.connection[row],
                batch.kind[row],
                batch.payload(row).to_vec(),
            )
        }));
    }
}

#[test]
fn the_consumer_hears_who_it_is_and_why_it_ends() {
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let address = edge.listen_udp("127.0.0.1:0", None, PROTOCOL, KEY).unwrap();
    let mut player = Player::new(&address, 77);
    player.until("connected", |player| {
        player.session.state() == State::Connected
    });
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, KIND_OPEN);
    let text = String::from_utf8(rows[0].2.clone()).unwrap();
    assert!(
        text.contains("\"transport\":\"udp\"") && text.contains("\"client_id\":\"77\""),
        "{text}"
    );
    assert!(text.contains("\"user_data\":\"03616461000"), "{text}");
    let connection = rows[0].0;
    let write = |payload| Write {
        connection,
        kind: 9,
        sequence: 5,
        payload,
    };
    assert_eq!(edge.send([write(&b"to you"[..])]), 0);
    player.until("packet", |player| !player.got.is_empty());
    assert_eq!(player.got[0][12..], *b"to you");
    assert_eq!(
        edge.peer(rows[0].0),
        Some(player.socket.local_addr().unwrap().to_string())
    );

    player.send(0xf0, 0, b"a client plays the edge");
    player.turn();
    rows_until(&edge, &mut rows, KIND_CLOSE);
    let reason = String::from_utf8(rows.last().unwrap().2.clone()).unwrap();
    assert!(
        reason.starts_with("bad bytes: packet of kind 0xf0"),
        "{reason}"
    );
    player.until("disconnected", |player| {
        player.session.state() == State::Disconnected
    });
    assert_eq!(edge.send([write(&b"late"[..])]), 1);
    assert_eq!(
        (
            count(&edge, "packet_own_kind"),
            count(&edge, "opened"),
            count(&edge, "closed")
        ),
        (1, 1, 1)
    );
    assert_eq!(edge.connections(), 0);
}

#[test]
fn addresses_that_can_not_be_are_errors() {
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let all = edge
        .listen_udp("0.0.0.0:0", None, PROTOCOL, KEY)
        .unwrap_err();
    assert!(all.to_string().contains("public address"), "{all}");
    let bad = edge
        .listen_udp("0.0.0.0:0", Some("somewhere"), PROTOCOL, KEY)
        .unwrap_err();
    assert!(bad.to_string().contains("IP:PORT"), "{bad}");
    edge.listen_udp("0.0.0.0:0", Some("192.0.2.1:4000"), PROTOCOL, KEY)
        .unwrap();
}
