//! netcode sessions through a real socket, with core's client at the other end.

mod common;

use std::net::UdpSocket;

use zmqgame_core::edge::netcode::client::State;
use zmqgame_core::stream::packet::{KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::EdgeConfig;
use zmqgame_reactor::edge::{Edge, Write};

use common::player::{Player, Realm};
use common::{Echo, count, counter, rows_until, until};

const PROTOCOL: u64 = 0x7a6d_7167;
const KEY: [u8; 32] = [7; 32];

fn player(server: &str, client_id: u64) -> Player {
    let mut user_data = [0; 256];
    user_data[..4].copy_from_slice(b"\x03ada");
    let realm = Realm {
        protocol_id: PROTOCOL,
        private_key: KEY,
        user_data,
    };
    Player::begun(&realm.token(client_id, 60, &[server.parse().unwrap()]))
}

#[test]
fn sessions_open_echo_and_end_and_garbage_does_not_matter() {
    let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(Echo))).unwrap();
    let address = edge.listen_udp("127.0.0.1:0", None, PROTOCOL, KEY).unwrap();
    let mut players: Vec<Player> = (1..=20).map(|id| player(&address, id)).collect();
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (index, player) in players.iter_mut().enumerate() {
        for length in [0, 1, 17, 18, 1078, 1400] {
            noise.send_to(&vec![index as u8; length], &address).unwrap();
        }
        player.until("connected", |player| player.is(State::Connected));
        player.send(3, index as u64, &[index as u8; 1188]);
        player.until("echo", |player| player.got.len() == 1);
        assert_eq!(player.got[0][4..12], (index as u64).to_le_bytes());
        assert_eq!(player.got[0][12..], [index as u8; 1188]);
    }
    assert_eq!(edge.connections(), 20);
    assert_eq!(counter(&edge, "datagrams_refused"), 120);
    players[0].session.disconnect(1_000_000);
    players[0].turn();
    until("one has left", || edge.connections() == 19);
    edge.stop(1_000);
    for player in &mut players[1..] {
        player.until("told of the stop", |player| player.is(State::Disconnected));
    }
}

#[test]
fn the_consumer_hears_who_it_is_and_why_it_ends() {
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let address = edge.listen_udp("127.0.0.1:0", None, PROTOCOL, KEY).unwrap();
    let mut player = player(&address, 77);
    player.until("connected", |player| player.is(State::Connected));
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
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
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
    let reason = String::from_utf8(rows.last().unwrap().2.clone()).unwrap();
    assert!(
        reason.starts_with("bad bytes: packet of kind 0xf0"),
        "{reason}"
    );
    player.until("disconnected", |player| player.is(State::Disconnected));
    assert_eq!(edge.send([write(&b"late"[..])]), 1);
    // The client may hear of it before the edge has counted it.
    until("it is counted", || {
        (edge.connections(), counter(&edge, "closed")) == (0, 1)
    });
    let counters = (counter(&edge, "packet_own_kind"), counter(&edge, "opened"));
    assert_eq!(counters, (1, 1));
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
