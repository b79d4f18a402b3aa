//! Clients and a server with a simulated network between them: lossy, slow, repeating, hostile.

use std::collections::VecDeque;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::client::{Client, State};
use super::limits::{MAX_PAYLOAD_BYTES, REQUEST_BYTES, TOKEN_BYTES};
use super::packet::Header;
use super::server::{
    Ended, Event, Received, Refusal, SendError, Server, ServerConfig, ServerEntropy,
};
use super::token::{ConnectToken, TokenEntropy, TokenError, TokenSpec};

pub(super) const PROTOCOL_ID: u64 = 7;
const PRIVATE_KEY: [u8; 32] = [9; 32];
pub(super) const UNIX_S: u64 = 1_800_000_000;

pub(super) fn server_address() -> SocketAddr {
    "10.0.0.1:7612".parse().unwrap()
}

pub(super) fn client_address(number: u64) -> SocketAddr {
    SocketAddr::from(([10, 1, (number >> 8) as u8, number as u8], 4000))
}

/// A small generator of the tests' own: one seed, one run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

pub(super) struct TokenChoice {
    pub(super) expire_s: u64,
    pub(super) timeout_s: i32,
    pub(super) servers: Vec<SocketAddr>,
    pub(super) private_key: [u8; 32],
}

impl Default for TokenChoice {
    fn default() -> Self {
        let servers = vec![server_address()];
        Self {
            expire_s: UNIX_S + 30,
            timeout_s: 5,
            servers,
            private_key: PRIVATE_KEY,
        }
    }
}

pub(super) fn token(client_id: u64, salt: u64, choice: &TokenChoice) -> Box<[u8; TOKEN_BYTES]> {
    let mut user_data = [0; 256];
    user_data[..8].copy_from_slice(&client_id.to_le_bytes());
    let spec = TokenSpec {
        protocol_id: PROTOCOL_ID,
        create_s: UNIX_S,
        expire_s: choice.expire_s,
        timeout_s: choice.timeout_s,
        client_id,
        servers: &choice.servers,
        user_data: &user_data,
    };
    let entropy = TokenEntropy::from_bytes(&Random(client_id << 32 | salt).bytes());
    ConnectToken::generate(&spec, &choice.private_key, entropy)
        .unwrap()
        .write()
}

pub(super) fn new_server(max_clients: u32) -> Server {
    let config = ServerConfig::new(PROTOCOL_ID, PRIVATE_KEY, server_address(), max_clients);
    Server::new(
        config,
        &ServerEntropy::from_bytes(&Random(1).bytes()),
        0,
        UNIX_S * 1000,
    )
}

/// Everything in one thread: a server, clients by number, and what is on the way between them.
struct World {
    now_ms: u64,
    server: Server,
    clients: Vec<Client>,
    wire: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    random: Random,
    loss_percent: u64,
    repeat_percent: u64,
    server_got: Vec<(u64, Vec<u8>)>,
    client_got: Vec<Vec<Vec<u8>>>,
    events: Vec<Event>,
}

impl World {
    fn new(max_clients: u32, tokens: &[Box<[u8; TOKEN_BYTES]>]) -> Self {
        let clients: Vec<Client> = tokens
            .iter()
            .map(|token| Client::new(&token[..]).unwrap())
            .collect();
        let mut world = Self {
            now_ms: 0,
            server: new_server(max_clients),
            client_got: vec![Vec::new(); clients.len()],
            clients,
            wire: VecDeque::new(),
            random: Random(3),
            loss_percent: 0,
            repeat_percent: 0,
            server_got: Vec::new(),
            events: Vec::new(),
        };
        for client in &mut world.clients {
            client.start(0);
        }
        world
    }

    fn collect(&mut self) {
        let mut sent = Vec::new();
        while let Some((to, bytes)) = self.server.poll_datagram() {
            sent.push((server_address(), to, bytes.to_vec()));
        }
        for (number, client) in self.clients.iter_mut().enumerate() {
            while let Some((to, bytes)) = client.poll_datagram() {
                sent.push((client_address(number as u64), to, bytes.to_vec()));
            }
        }
        for datagram in sent {
            if self.random.percent(self.repeat_percent) {
                self.wire.push_back(datagram.clone());
            }
            if !self.random.percent(self.loss_percent) {
                self.wire.push_back(datagram);
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) {
        if to != server_address() {
            let number = (0..self.clients.len()).find(|&n| client_address(n as u64) == to);
            let Some(number) = number else { return };
            if let Some(payload) =
                self.clients[number].handle_datagram(self.now_ms, from, &mut bytes)
            {
                self.client_got[number].push(payload.to_vec());
            }
            return;
        }
        if let Received::Payload { client, bytes, .. } =
            self.server.handle_datagram(self.now_ms, from, &mut bytes)
        {
            self.server_got.push((client, bytes.to_vec()));
        }
        while let Some(event) = self.server.poll_event() {
            self.events.push(event);
        }
    }

    fn step(&mut self) {
        self.now_ms += 10;
        self.server.handle_timeout(self.now_ms);
        for client in &mut self.clients {
            client.handle_timeout(self.now_ms);
        }
        self.collect();
        for _ in 0..self.wire.len() {
            // Sometimes a datagram is overtaken by those behind it.
            let (from, to, bytes) = self.wire.pop_front().unwrap();
            if self.repeat_percent > 0 && self.random.percent(20) {
                self.wire.push_back((from, to, bytes));
            } else {
                self.deliver(from, to, bytes);
            }
        }
        while let Some(event) = self.server.poll_event() {
            self.events.push(event);
        }
        self.collect();
    }

    fn run(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    fn keys(&self) -> Vec<(u64, u64)> {
        let connected = self.events.iter().filter_map(|event| match event {
            Event::Connected {
                client, client_id, ..
            } => Some((*client_id, *client)),
            Event::Disconnected { .. } => None,
        });
        connected.collect()
    }
}

fn world(clients: u64) -> World {
    let tokens: Vec<_> = (0..clients)
        .map(|id| token(id, 0, &TokenChoice::default()))
        .collect();
    World::new(1000, &tokens)
}

#[test]
fn clients_connect_talk_and_leave() {
    let mut world = world(3);
    world.run(5);
    assert!(
        world
            .clients
            .iter()
            .all(|client| client.state() == State::Connected)
    );
    let keys = world.keys();
    assert_eq!(
        keys.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let Event::Connected {
        user_data, address, ..
    } = &world.events[2]
    else {
        panic!("connected first")
    };
    assert_eq!((user_data[0], *address), (2, client_address(2)));

    for (number, client) in world.clients.iter_mut().enumerate() {
        client.send(world.now_ms, &[number as u8; 40]).unwrap();
    }
    for (id, key) in &keys {
        world
            .server
            .send(world.now_ms, *key, &[*id as u8; MAX_PAYLOAD_BYTES])
            .unwrap();
    }
    world.step();
    assert_eq!(world.server_got.len(), 3);
    assert_eq!(world.client_got[1], [vec![1; MAX_PAYLOAD_BYTES]]);

    world.clients[0].disconnect(world.now_ms);
    assert!(world.server.disconnect(world.now_ms, keys[1].1));
    world.step();
    assert_eq!(world.clients[1].state(), State::Disconnected);
    let ends: Vec<_> = world.events[3..].iter().collect();
    assert_eq!(ends.len(), 2);
    assert!(ends.contains(&&Event::Disconnected {
        client: keys[0].1,
        client_id: 0,
        why: Ended::ByClient
    }));
    assert!(ends.contains(&&Event::Disconnected {
        client: keys[1].1,
        client_id: 1,
        why: Ended::ByServer
    }));
    assert_eq!(
        world.server.send(world.now_ms, keys[1].1, b"late"),
        Err(SendError::UnknownClient)
    );
    assert_eq!(world.server.connected(), 1);
}

#[test]
fn a_lossy_repeating_network_delivers_nothing_twice() {
    let mut world = world(20);
    (world.loss_percent, world.repeat_percent) = (30, 30);
    for round in 0u64..300 {
        for (number, client) in world.clients.iter_mut().enumerate() {
            if client.state() == State::Connected {
                client
                    .send(
                        world.now_ms,
                        &[round.to_le_bytes(), (number as u64).to_le_bytes()].concat(),
                    )
                    .unwrap();
            }
        }
        world.step();
    }
    assert!(
        world
            .clients
            .iter()
            .all(|client| client.state() == State::Connected)
    );
    assert_eq!(world.server.connected(), 20);
    let received = world.server_got.len();
    assert!(
        (2000..6000).contains(&received),
        "{received} of nearly 6,000"
    );
    world.server_got.sort();
    world.server_got.dedup();
    assert_eq!(world.server_got.len(), received);
    assert!(world.server.counters().refused[Refusal::Replay as usize] > 0);
}

#[test]
fn silence_ends_a_session_on_both_sides() {
    let mut world = world(2);
    world.run(5);
    world.loss_percent = 100;
    world.run(520);
    assert!(
        world
            .clients
            .iter()
            .all(|client| client.state() == State::TimedOut)
    );
    assert_eq!(world.server.connected(), 0);
    let timed_out = |event: &&Event| {
        matches!(
            event,
            Event::Disconnected {
                why: Ended::TimedOut,
                ..
            }
        )
    };
    assert_eq!(world.events.iter().filter(timed_out).count(), 2);
}

#[test]
fn keep_alives_hold_a_silent_session() {
    let mut world = world(2);
    world.loss_percent = 20;
    world.run(3000);
    assert!(
        world
            .clients
            .iter()
            .all(|client| client.state() == State::Connected)
    );
    assert_eq!(world.server.connected(), 2);
}

#[test]
fn a_full_server_denies() {
    let tokens: Vec<_> = (0..3)
        .map(|id| token(id, 0, &TokenChoice::default()))
        .collect();
    let mut world = World::new(2, &tokens);
    world.run(5);
    let states: Vec<_> = world.clients.iter().map(Client::state).collect();
    assert_eq!(states, [State::Connected, State::Connected, State::Denied]);
}

#[test]
fn the_next_server_is_tried_when_the_first_is_silent() {
    let servers = vec!["10.9.9.9:1".parse().unwrap(), server_address()];
    let mut world = World::new(
        2,
        &[token(
            1,
            0,
            &TokenChoice {
                servers,
                ..TokenChoice::default()
            },
        )],
    );
    world.run(600);
    assert_eq!(world.clients[0].state(), State::Connected);
    assert_eq!(world.clients[0].server(), server_address());
}

#[test]
fn errors_have_the_state_of_their_cause() {
    let choice = |servers: &str, expire_s| TokenChoice {
        servers: vec![servers.parse().unwrap()],
        expire_s,
        ..TokenChoice::default()
    };
    let silent = token(1, 0, &choice("10.9.9.9:1", UNIX_S + 30));
    let short = token(2, 0, &choice("10.9.9.9:1", UNIX_S + 2));
    let mut world = World::new(2, &[silent, short]);
    world.run(510);
    assert_eq!(world.clients[0].state(), State::RequestTimedOut);
    assert_eq!(world.clients[1].state(), State::TokenExpired);
}

#[test]
fn a_token_connects_once_and_from_one_address() {
    let mut world = world(1);
    let (_, _, request) = {
        world.collect();
        world.wire[0].clone()
    };
    world.run(3);
    let thief = client_address(77);
    let mut refused =
        |from, now_ms| match world
            .server
            .handle_datagram(now_ms, from, &mut request.clone())
        {
            Received::Refused(why) => why,
            other => panic!("{other:?}"),
        };
    assert_eq!(refused(thief, 40), Refusal::TokenUsed);
    assert_eq!(refused(client_address(0), 40), Refusal::AlreadyConnected);
    world.clients[0].disconnect(world.now_ms);
    world.step();
    assert_eq!(world.server.connected(), 0);
    let mut request = request.clone();
    let again = world
        .server
        .handle_datagram(world.now_ms, client_address(0), &mut request);
    assert_eq!(again, Received::Refused(Refusal::TokenUsed));
}

#[test]
fn bad_requests_are_refused_by_their_fault() {
    let mut server = new_server(10);
    let mut request = |choice: TokenChoice, protocol_id: u64, now_ms: u64| {
        let mut bytes = token(5, 5, &choice);
        bytes[13..21].copy_from_slice(&protocol_id.to_le_bytes());
        let mut client = Client::new(&bytes[..]).unwrap();
        client.start(0);
        let mut datagram = client.poll_datagram().unwrap().1.to_vec();
        match server.handle_datagram(now_ms, client_address(0), &mut datagram) {
            Received::Refused(why) => Some(why),
            _ => None,
        }
    };
    let elsewhere = vec!["10.0.0.2:7612".parse().unwrap()];
    assert_eq!(
        request(TokenChoice::default(), 8, 0),
        Some(Refusal::Protocol)
    );
    assert_eq!(
        request(TokenChoice::default(), 7, 30_000),
        Some(Refusal::Expired)
    );
    assert_eq!(
        request(
            TokenChoice {
                private_key: [8; 32],
                ..Default::default()
            },
            7,
            0
        ),
        Some(Refusal::Seal)
    );
    assert_eq!(
        request(
            TokenChoice {
                servers: elsewhere,
                ..Default::default()
            },
            7,
            0
        ),
        Some(Refusal::OtherServer)
    );
    assert_eq!(request(TokenChoice::default(), 7, 29_999), None);
}

#[test]
fn a_challenge_answers_for_its_own_token_only() {
    // Two tokens of one person; the challenge got at the first address is used at the second.
    let choice = TokenChoice::default();
    let mut world = World::new(10, &[token(1, 1, &choice), token(1, 2, &choice)]);
    world.collect();
    for (from, _, mut bytes) in std::mem::take(&mut world.wire) {
        world.server.handle_datagram(1, from, &mut bytes);
    }
    let mut challenges = Vec::new();
    while let Some((_, bytes)) = world.server.poll_datagram() {
        challenges.push(bytes.to_vec());
    }
    assert_eq!(world.server.pending(), 2);
    world.clients[0].handle_datagram(1, server_address(), &mut challenges[0].clone());
    let stolen = Client::challenge_for_tests(&world.clients[0]);
    world.clients[1].handle_datagram(1, server_address(), &mut challenges[1].clone());
    world.clients[1].set_challenge_for_tests(stolen);
    while world.clients[1].poll_datagram().is_some() {}
    world.clients[1].handle_timeout(200);
    let mut response = world.clients[1].poll_datagram().unwrap().1.to_vec();
    let received = world
        .server
        .handle_datagram(200, client_address(1), &mut response);
    assert_eq!(received, Received::Refused(Refusal::Seal));
    assert_eq!(world.server.connected(), 0);
}

#[test]
fn a_restarted_server_does_not_repeat_numbers_with_a_token_that_comes_again() {
    let numbers = |salt: u64| {
        let config = ServerConfig::new(PROTOCOL_ID, PRIVATE_KEY, server_address(), 4);
        let entropy = ServerEntropy::from_bytes(&Random(salt).bytes());
        let mut world = world(1);
        world.server = Server::new(config, &entropy, 0, UNIX_S * 1000);
        let mut seen = Vec::new();
        for _ in 0..5 {
            world.step();
            let sealed = world
                .wire
                .iter()
                .filter(|(from, _, _)| *from == server_address());
            seen.extend(sealed.map(|(_, _, bytes)| Header::read(bytes).unwrap().sequence));
        }
        assert_eq!(world.clients[0].state(), State::Connected);
        seen
    };
    // The challenge and the first packet of the session; what follows counts on from there.
    let (first, second) = (numbers(1), numbers(2));
    assert!(first.len() >= 2 && second.len() >= 2);
    for number in first {
        assert!(
            second
                .iter()
                .all(|other| other.abs_diff(number) > 1_000_000)
        );
    }
}

#[test]
fn answers_are_smaller_than_what_they_answer() {
    let mut world = world(1);
    world.collect();
    let (from, _, bytes) = world.wire[0].clone();
    assert_eq!(bytes.len(), REQUEST_BYTES);
    world.server.handle_datagram(0, from, &mut bytes.clone());
    let answer = world.server.poll_datagram().unwrap().1.len();
    assert!(answer < bytes.len() / 3, "{answer}");
    assert!(world.server.poll_datagram().is_none());
}

#[test]
fn thousands_of_clients_have_their_places() {
    let tokens: Vec<_> = (0..3000)
        .map(|id| token(id, 0, &TokenChoice::default()))
        .collect();
    let mut world = World::new(3000, &tokens);
    world.run(5);
    assert_eq!(world.server.connected(), 3000);
    let mut indices: Vec<_> = world
        .clients
        .iter()
        .map(|client| client.index().0)
        .collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..3000).collect::<Vec<_>>());
}

#[test]
fn tokens_with_wrong_fields_are_refused_by_their_fault() {
    let read = |bytes: &[u8]| ConnectToken::read(bytes).err();
    let good = token(1, 0, &TokenChoice::default());
    assert_eq!(read(&good[..]), None);
    assert_eq!(
        read(&good[..2047]),
        Some(TokenError::Length {
            limit: 2048,
            value: 2047
        })
    );
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        read(&changed[..])
    };
    let servers_at = 13 + 8 + 8 + 8 + 24 + 1024 + 4;
    assert_eq!(with(11, b"3"), Some(TokenError::Version));
    assert_eq!(
        with(servers_at, &[0]),
        Some(TokenError::Servers {
            limit: 32,
            value: 0
        })
    );
    assert_eq!(
        with(servers_at, &[33]),
        Some(TokenError::Servers {
            limit: 32,
            value: 33
        })
    );
    assert_eq!(
        with(servers_at + 4, &[3]),
        Some(TokenError::AddressType { value: 3 })
    );
    assert!(matches!(
        with(21 + 7, &[255]),
        Some(TokenError::Times { .. })
    ));
}

/// A server with one connected and one pending client, and a datagram of each to change.
fn prepared() -> (World, Vec<(SocketAddr, Vec<u8>)>) {
    let choice = TokenChoice::default();
    let mut world = World::new(10, &[token(1, 0, &choice)]);
    world.run(5);
    let mut pending = Client::new(&token(2, 0, &choice)[..]).unwrap();
    pending.start(world.now_ms);
    let mut request = pending.poll_datagram().unwrap().1.to_vec();
    world
        .server
        .handle_datagram(world.now_ms, client_address(1), &mut request);
    let (_, challenge) = world.server.poll_datagram().unwrap();
    pending.handle_datagram(world.now_ms, server_address(), &mut challenge.to_vec());
    let response = pending.poll_datagram().unwrap().1.to_vec();
    world.clients[0]
        .send(world.now_ms, b"input of one frame")
        .unwrap();
    let payload = world.clients[0].poll_datagram().unwrap().1.to_vec();
    let mut newcomer = Client::new(&token(3, 0, &choice)[..]).unwrap();
    newcomer.start(world.now_ms);
    let request = newcomer.poll_datagram().unwrap().1.to_vec();
    let samples = vec![
        (client_address(0), payload),
        (client_address(1), response),
        (client_address(2), request),
    ];
    (world, samples)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_have_no_effect(bytes in prop::collection::vec(any::<u8>(), 0..1300), first in any::<u8>(), number in 0u64..4) {
        let (mut world, _) = prepared();
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        let mut copy = bytes.clone();
        let failed = world.server.counters().failed_decryptions;
        let received = world.server.handle_datagram(world.now_ms, client_address(number), &mut bytes);
        prop_assert!(matches!(received, Received::Refused(_)));
        prop_assert!(world.server.counters().failed_decryptions - failed <= 1);
        prop_assert!(world.server.poll_datagram().is_none());
        prop_assert!(world.clients[0].handle_datagram(world.now_ms, server_address(), &mut copy).is_none());
        prop_assert_eq!((world.server.connected(), world.server.pending()), (1, 1));
    }

    #[test]
    fn changed_or_cut_packets_have_no_effect(which in 0usize..3, bit in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(), cuts in any::<bool>()) {
        let (mut world, samples) = prepared();
        let (from, mut original) = samples[which].clone();
        let mut bytes = original.clone();
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        } else {
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let failed = world.server.counters().failed_decryptions;
        let received = world.server.handle_datagram(world.now_ms, from, &mut bytes);
        prop_assert!(matches!(received, Received::Refused(_)));
        prop_assert!(world.server.counters().failed_decryptions - failed <= 1);
        // The unchanged one is still good afterwards.
        let received = world.server.handle_datagram(world.now_ms, from, &mut original);
        prop_assert!(!matches!(received, Received::Refused(_)));
    }

    #[test]
    fn damaged_tokens_never_panic(bit in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 2048)) {
        let mut changed = token(1, 0, &TokenChoice::default());
        let bit = bit.index(changed.len() * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
        for bytes in [&changed[..], &bytes[..]] {
            if let Ok(mut client) = Client::new(bytes) {
                client.start(0);
                client.handle_timeout(u64::MAX / 2);
            }
        }
    }
}
