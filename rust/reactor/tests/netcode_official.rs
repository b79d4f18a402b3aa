//! The standard's official Rust implementation as an oracle: its clients play on our edge, our client on its
//! server, with the tokens of either, over real sockets.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netcode::{ClientState, DisconnectReason, ServerEvent};
use zmqgame_core::edge::netcode::client::State;
use zmqgame_core::stream::packet::{Header, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::EdgeConfig;
use zmqgame_reactor::edge::{Edge, Handler};

use common::player::{Player, Realm};
use common::{DEADLINE, Echo, counter, until};

const PROTOCOL: u64 = 0x5a17;
const KEY: [u8; 32] = [0x42; 32];
const USER_DATA: [u8; 256] = [7; 256];
const TURN: Duration = Duration::from_millis(2);
const FRESH: &str = "127.0.0.1:0";

/// Which implementation makes the token.
#[derive(Clone, Copy, Debug)]
enum Maker {
    Ours,
    Theirs,
}

fn token(maker: Maker, client_id: u64, timeout_s: i32, servers: &[SocketAddr]) -> [u8; 2048] {
    match maker {
        Maker::Theirs => netcode::generate_connect_token(
            servers, servers, 180, timeout_s, client_id, PROTOCOL, &KEY, &USER_DATA,
        )
        .unwrap(),
        Maker::Ours => {
            let realm = Realm {
                protocol_id: PROTOCOL,
                private_key: KEY,
                user_data: USER_DATA,
            };
            realm.token(client_id, timeout_s, servers)
        }
    }
}

/// Drives one of their clients until something holds.
fn drive(
    client: &mut netcode::Client,
    start: Instant,
    what: &str,
    mut done: impl FnMut(&mut netcode::Client) -> bool,
) {
    let begun = Instant::now();
    loop {
        client.update(start.elapsed().as_secs_f64());
        if done(client) {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: {}", client.state());
        std::thread::sleep(TURN);
    }
}

fn connect(start: Instant, token: &[u8; 2048]) -> netcode::Client {
    let mut client =
        netcode::Client::new(FRESH.parse().unwrap(), start.elapsed().as_secs_f64()).unwrap();
    client.connect(token).unwrap();
    client
}

fn is(state: ClientState) -> impl FnMut(&mut netcode::Client) -> bool {
    move |client| client.state() == state
}

fn packet(sequence: u64, bytes: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    Header { kind: 3, sequence }.write(&mut packet);
    packet.resize(bytes, sequence as u8);
    packet
}

fn edge_of(config: EdgeConfig, handler: bool) -> (Edge, SocketAddr) {
    let make = |_| handler.then(|| Box::new(Echo) as Box<dyn Handler>);
    let edge = Edge::start_with(config, make).unwrap();
    let address = edge.listen_udp(FRESH, None, PROTOCOL, KEY).unwrap();
    (edge, address.parse().unwrap())
}

#[test]
fn their_clients_play_on_our_edge() {
    let start = Instant::now();
    let (edge, address) = edge_of(EdgeConfig::default(), true);
    let mut clients: Vec<_> = (0..16)
        .map(|id| {
            let maker = if id % 2 == 0 {
                Maker::Ours
            } else {
                Maker::Theirs
            };
            connect(start, &token(maker, id, 30, &[address]))
        })
        .collect();
    for client in &mut clients {
        drive(client, start, "connected", is(ClientState::Connected));
        assert_eq!(client.max_clients(), 10_000);
        for (sequence, bytes) in [12, 13, 100, 1_199, 1_200].into_iter().enumerate() {
            let sent = packet(sequence as u64, bytes);
            client.send_packet(&sent).unwrap();
            let mut got = None;
            drive(client, start, "echo", |client| {
                got = client.receive_packet().map(|(payload, _)| payload);
                got.is_some()
            });
            assert_eq!(got, Some(sent));
        }
    }
    assert_eq!(
        (edge.connections(), counter(&edge, "datagrams_refused")),
        (16, 0)
    );
    clients[0].disconnect();
    until("one has left", || edge.connections() == 15);
    edge.stop(1_000);
    for client in &mut clients[1..] {
        drive(
            client,
            start,
            "told of the stop",
            is(ClientState::Disconnected),
        );
    }
}

#[test]
fn their_client_hears_of_a_full_server_and_of_silence_and_finds_the_next_server() {
    let start = Instant::now();
    let one = EdgeConfig {
        max_connections: 1,
        ..EdgeConfig::default()
    };
    let (full, full_address) = edge_of(one, true);
    let (other, other_address) = edge_of(EdgeConfig::default(), true);
    let mut first = connect(start, &token(Maker::Theirs, 1, 30, &[full_address]));
    drive(&mut first, start, "connected", is(ClientState::Connected));
    let mut denied = connect(start, &token(Maker::Theirs, 2, 30, &[full_address]));
    drive(
        &mut denied,
        start,
        "denied",
        is(ClientState::ConnectionDenied),
    );
    assert!(counter(&full, "netcode_server_full") > 0);
    let mut second = connect(
        start,
        &token(Maker::Ours, 3, 30, &[full_address, other_address]),
    );
    drive(
        &mut second,
        start,
        "connected elsewhere",
        is(ClientState::Connected),
    );
    assert_eq!((full.connections(), other.connections()), (1, 1));

    // A socket that answers nothing in place of the server.
    let silent = UdpSocket::bind(FRESH).unwrap();
    let servers = [silent.local_addr().unwrap(), other_address];
    let mut third = connect(start, &token(Maker::Ours, 4, 3, &servers));
    drive(
        &mut third,
        start,
        "connected past silence",
        is(ClientState::Connected),
    );
}

#[test]
fn our_edge_tells_how_their_client_is_and_why_it_ends() {
    let start = Instant::now();
    let (edge, address) = edge_of(EdgeConfig::default(), false);
    let mut client = connect(start, &token(Maker::Theirs, 77, 3, &[address]));
    drive(&mut client, start, "connected", is(ClientState::Connected));
    client.send_packet(&packet(9, 20)).unwrap();
    // From here on it is silent: its time-out of a second ends it.
    let (mut kinds, mut texts, begun) = (Vec::new(), Vec::new(), Instant::now());
    while kinds.last() != Some(&KIND_CLOSE) {
        assert!(begun.elapsed() < DEADLINE, "{kinds:?}");
        edge.wait(100).unwrap();
        let batch = edge.receive();
        kinds.extend_from_slice(&batch.kind);
        texts.extend(
            (0..batch.len()).map(|row| String::from_utf8_lossy(batch.payload(row)).into_owned()),
        );
    }
    assert_eq!(kinds, [KIND_OPEN, 3, KIND_CLOSE]);
    assert!(texts[0].contains("\"client_id\":\"77\""), "{}", texts[0]);
    assert!(texts[0].contains(&"07".repeat(256)), "{}", texts[0]);
    assert_eq!(texts[2], "UDP session timed out");
}

/// Their server with `slots`, and our clients on it, driven until something holds.
struct Theirs {
    server: netcode::Server,
    clients: Vec<Player>,
    start: Instant,
    events: Vec<ServerEvent>,
}

impl Theirs {
    fn new(slots: usize) -> Self {
        let start = Instant::now();
        let address = FRESH.parse().unwrap();
        let mut server = netcode::Server::new(address, PROTOCOL, &KEY, 0.0).unwrap();
        server.start(slots).unwrap();
        Self {
            server,
            clients: Vec::new(),
            start,
            events: Vec::new(),
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < DEADLINE, "{what}");
            self.server.update(self.start.elapsed().as_secs_f64());
            while let Some(event) = self.server.next_event() {
                self.events.push(event);
            }
            self.clients.iter_mut().for_each(Player::turn);
            std::thread::sleep(TURN);
        }
    }
}

#[test]
fn our_client_plays_on_their_server() {
    let mut world = Theirs::new(4);
    let address = world.server.address();
    for (id, maker, timeout_s) in [
        (1, Maker::Ours, 30),
        (2, Maker::Theirs, 30),
        (3, Maker::Ours, 3),
    ] {
        let token = token(maker, id, timeout_s, &[address]);
        world.clients.push(Player::begun(&token));
    }
    let connected = |world: &mut Theirs| {
        world
            .clients
            .iter()
            .all(|client| client.is(State::Connected))
    };
    world.until("connected", connected);
    for (number, bytes) in [1, 2, 500, 1_200].into_iter().enumerate() {
        let index = world.clients[0].session.index();
        assert_eq!(index.1, 4);
        let sent = vec![number as u8; bytes];
        let now_ms = world.clients[0].now_ms();
        world.clients[0].session.send(now_ms, &sent).unwrap();
        let mut got = None;
        world.until("payload", |world| {
            got = world
                .server
                .receive_packet(index.0 as usize)
                .map(|(payload, _)| payload);
            got.is_some()
        });
        assert_eq!(got, Some(sent.clone()));
        world.server.send_packet(index.0 as usize, &sent).unwrap();
        world.until("answer", |world| world.clients[0].got.len() == number + 1);
        assert_eq!(world.clients[0].got[number], sent);
    }
    let (first, second) = (
        world.clients[0].session.index().0,
        world.clients[1].session.index().0,
    );
    assert_eq!(
        world.server.client_user_data(first as usize),
        Some(&USER_DATA)
    );
    world.server.disconnect_client(first as usize);
    world.until("told of the end", |world| {
        world.clients[0].is(State::Disconnected)
    });
    let now_ms = world.clients[1].now_ms();
    world.clients[1].session.disconnect(now_ms);
    let left = ServerEvent::ClientDisconnected {
        client_index: second as usize,
        reason: DisconnectReason::ClientDisconnect,
    };
    world.until("it has left", |world| world.events.contains(&left));
    // What holds a session in silence are our keep-alives: beyond their time-out it is still there.
    let silence = Instant::now();
    world.until("silence", |_| silence.elapsed() > Duration::from_secs(4));
    assert_eq!(world.clients[2].session.state(), State::Connected);
}

#[test]
fn our_client_hears_of_their_full_server_and_of_silence() {
    let mut world = Theirs::new(1);
    let address = world.server.address();
    world
        .clients
        .push(Player::begun(&token(Maker::Theirs, 1, 3, &[address])));
    world.until("connected", |world| world.clients[0].is(State::Connected));
    world
        .clients
        .push(Player::begun(&token(Maker::Theirs, 2, 30, &[address])));
    world.until("denied", |world| world.clients[1].is(State::Denied));
    // Nobody turns the server any more.
    world.clients[0].until("timed out", |client| client.is(State::TimedOut));
}
