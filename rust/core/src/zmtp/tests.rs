//! Two peers talk over a perfect line; what comes out must not depend on how the bytes were cut.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Ready(Established),
    Frame(Vec<u8>),
}

fn feed(peer: &mut Peer, bytes: &[u8], seen: &mut Vec<Seen>) -> Result<(), ZmtpError> {
    let mut bytes = bytes.to_vec();
    peer.handle_input(0, &mut bytes, &mut |event| {
        seen.push(match event {
            Event::Ready(established) => Seen::Ready(established.clone()),
            Event::Frame(frame) => Seen::Frame(frame.to_vec()),
        });
    })
}

fn keys(seed: u8) -> SecretKey {
    SecretKey::new([seed; 32])
}

fn curve_pair(allowed: Option<BTreeSet<PublicKey>>) -> (Config, Config) {
    let server = Security::CurveServer {
        secret: keys(1),
        allowed,
    };
    let client = Security::CurveClient {
        server: keys(1).public(),
        secret: keys(2),
    };
    (
        Config::new(Role::Server, server),
        Config::new(Role::Client, client),
    )
}

fn null_pair() -> (Config, Config) {
    (
        Config::new(Role::Server, Security::Null),
        Config::new(Role::Client, Security::Null),
    )
}

struct Pair {
    server: Peer,
    client: Peer,
    at_server: Vec<Seen>,
    at_client: Vec<Seen>,
}

impl Pair {
    fn new((server, client): (Config, Config)) -> Self {
        Self {
            server: Peer::new(Arc::new(server), 0, [3; 96]),
            client: Peer::new(Arc::new(client), 0, [4; 96]),
            at_server: Vec::new(),
            at_client: Vec::new(),
        }
    }

    /// Until nothing moves, or one of them refuses.
    fn run(&mut self) -> Result<(), (&'static str, ZmtpError)> {
        loop {
            let to_server = self.client.out().take();
            let to_client = self.server.out().take();
            if to_server.is_empty() && to_client.is_empty() {
                return Ok(());
            }
            let server = feed(&mut self.server, &to_server, &mut self.at_server);
            let client = feed(&mut self.client, &to_client, &mut self.at_client);
            if let Err(error) = server {
                let last_words = self.server.out().take();
                if !last_words.is_empty() {
                    let heard = feed(&mut self.client, &last_words, &mut self.at_client);
                    assert!(matches!(heard, Err(ZmtpError::Refused(_))), "{heard:?}");
                }
                return Err(("server", error));
            }
            client.map_err(|error| ("client", error))?;
        }
    }
}

#[test]
fn both_mechanisms_carry_messages_both_ways() {
    let only_the_client = Some(BTreeSet::from([keys(2).public()]));
    for mut pair in [
        Pair::new(null_pair()),
        Pair::new(curve_pair(only_the_client)),
    ] {
        let curve = pair.client.poll_timeout();
        assert_eq!(curve, Some(limits::HANDSHAKE_MS));
        assert!(!pair.client.send(b"too early"));
        pair.run().unwrap();
        assert!(pair.client.is_ready() && pair.server.is_ready());
        assert_eq!(pair.server.poll_timeout(), None);
        let big = vec![7; 100_000];
        for size in [0, 1, 255, 256, 70_000] {
            assert!(pair.client.send(&big[..size]));
            assert!(pair.server.send_owned(big[..size].to_vec()));
        }
        pair.client.ping();
        pair.run().unwrap();
        let frames: Vec<Seen> = [0, 1, 255, 256, 70_000]
            .iter()
            .map(|&n| Seen::Frame(big[..n].to_vec()))
            .collect();
        assert_eq!(pair.at_server[1..], frames);
        assert_eq!(pair.at_client[1..], frames);
    }
}

#[test]
fn the_server_learns_the_proven_key() {
    let mut pair = Pair::new(curve_pair(None));
    pair.run().unwrap();
    let expected = Established {
        identity: Vec::new(),
        key: Some(keys(2).public()),
        minor: 1,
    };
    assert_eq!(pair.at_server, [Seen::Ready(expected)]);
}

fn known_as(server: u8) -> Config {
    let security = Security::CurveClient {
        server: keys(server).public(),
        secret: keys(2),
    };
    Config::new(Role::Client, security)
}

#[test]
fn during_a_rotation_a_server_is_known_by_two_keys() {
    let both = || curve_pair(None).0.with_previous(keys(7));
    for (server, known_by, opens) in [
        (both(), 1, true),
        (both(), 7, true),
        (both(), 8, false),
        (curve_pair(None).0, 7, false),
    ] {
        let mut pair = Pair::new((server, known_as(known_by)));
        assert_eq!(pair.run().is_ok(), opens, "known by {known_by}");
        if opens {
            assert!(pair.client.send(b"up") && pair.server.send(b"down"));
            pair.run().unwrap();
            assert_eq!(pair.at_server[1], Seen::Frame(b"up".to_vec()));
            assert_eq!(pair.at_client[1], Seen::Frame(b"down".to_vec()));
        }
    }
}

#[test]
fn the_first_frame_may_be_bounded_closer() {
    for (mut server, client) in [null_pair(), curve_pair(None)] {
        server.first_frame_bytes = 100;
        let mut pair = Pair::new((server.clone(), client.clone()));
        pair.run().unwrap();
        assert!(!pair.server.has_spoken());
        assert!(pair.client.send(&[0; 100]) && pair.client.send(&[0; 5_000]));
        pair.run().unwrap();
        assert!(pair.server.has_spoken());
        let mut pair = Pair::new((server, client));
        pair.run().unwrap();
        assert!(pair.client.send(&[0; 101]));
        let (side, error) = pair.run().unwrap_err();
        assert_eq!((side, error.kind()), ("server", "frame_too_large"));
        assert_eq!(pair.server.in_bytes(), 0);
    }
}

#[test]
fn wrong_keys_and_mechanisms_are_refused_by_kind() {
    let stranger = Some(BTreeSet::from([keys(9).public()]));
    let (side, error) = Pair::new(curve_pair(stranger)).run().unwrap_err();
    assert_eq!(
        (side, error),
        ("server", ZmtpError::KeyNotAllowed(keys(2).public()))
    );

    let wrong_server_key = Security::CurveClient {
        server: keys(8).public(),
        secret: keys(2),
    };
    let client = Config::new(Role::Client, wrong_server_key);
    let (side, error) = Pair::new((curve_pair(None).0, client)).run().unwrap_err();
    assert_eq!((side, error.kind()), ("server", "authentication"));

    let (_, error) = Pair::new((curve_pair(None).0, null_pair().1))
        .run()
        .unwrap_err();
    assert_eq!(error, ZmtpError::Mechanism("NULL".into()));
    let mut pair = Pair::new(curve_pair(None));
    let greeting = pair.server.out().take();
    let two_servers = feed(&mut pair.server, &greeting, &mut Vec::new());
    assert_eq!(two_servers, Err(ZmtpError::BothSameRole));
    let (side, error) = Pair::new((curve_pair(None).1, curve_pair(None).1))
        .run()
        .unwrap_err();
    assert_eq!(
        (side, error),
        ("server", ZmtpError::Unexpected("command HELLO".into()))
    );
}

#[test]
fn a_second_hello_a_changed_cookie_and_a_replayed_message_are_refused() {
    let mut pair = Pair::new(curve_pair(None));
    feed(&mut pair.client, &pair.server.out().take(), &mut Vec::new()).unwrap();
    let hello = pair.client.out().take();
    feed(&mut pair.server, &hello, &mut Vec::new()).unwrap();
    let again = feed(&mut pair.server, &hello[64..], &mut Vec::new()).unwrap_err();
    assert_eq!(again.kind(), "unexpected");

    let mut pair = Pair::new(curve_pair(None));
    feed(&mut pair.client, &pair.server.out().take(), &mut Vec::new()).unwrap();
    feed(&mut pair.server, &pair.client.out().take(), &mut Vec::new()).unwrap();
    feed(&mut pair.client, &pair.server.out().take(), &mut Vec::new()).unwrap();
    let mut initiate = pair.client.out().take();
    let mut changed = initiate.clone();
    changed[30] ^= 1;
    let error = feed(&mut pair.server, &changed, &mut Vec::new()).unwrap_err();
    assert_eq!(error, ZmtpError::Authentication("cookie"));
    initiate[0] = 0;
    let error = feed(&mut pair.server, &initiate, &mut Vec::new());
    assert_eq!(
        error,
        Ok(()),
        "a connection that has ended looks at nothing"
    );

    let mut pair = Pair::new(curve_pair(None));
    pair.run().unwrap();
    pair.client.send(b"once");
    let message = pair.client.out().take();
    feed(&mut pair.server, &message, &mut Vec::new()).unwrap();
    let error = feed(&mut pair.server, &message, &mut Vec::new()).unwrap_err();
    assert_eq!(error, ZmtpError::Replay);
}

fn ready_server(config: Config) -> Peer {
    let mut pair = Pair::new((config, null_pair().1));
    pair.run().unwrap();
    pair.server
}

#[test]
fn traffic_that_is_refused_and_commands_that_are_skipped() {
    let refused = |bytes: &[u8]| {
        let mut server = ready_server(null_pair().0);
        feed(&mut server, bytes, &mut Vec::new()).unwrap_err()
    };
    assert_eq!(refused(&[1, 1, b'x', 0, 0]), ZmtpError::Multipart);
    assert_eq!(refused(&[0x80, 1, b'x']), ZmtpError::BadFlags(0x80));
    let huge = [2, 0, 0, 0, 0xff, 0, 0, 0, 0];
    assert_eq!(refused(&huge).kind(), "frame_too_large");
    assert_eq!(refused(&[4, 2, 5, b'R']).kind(), "malformed");
    assert_eq!(
        refused(b"\x04\x08\x05ERROR\x01x"),
        ZmtpError::Refused("x".into())
    );
    let mut server = ready_server(null_pair().0);
    let mut seen = Vec::new();
    feed(&mut server, b"\x04\x0a\x09SUBSCRIBE\x00\x01y", &mut seen).unwrap();
    assert_eq!(seen, [Seen::Frame(b"y".to_vec())]);
}

#[test]
fn a_ping_is_answered_and_its_ttl_kept() {
    let mut server = ready_server(null_pair().0);
    feed(&mut server, b"\x04\x0a\x04PING\x00\x05abc", &mut Vec::new()).unwrap();
    assert_eq!(server.out().take(), b"\x04\x08\x04PONGabc");
    assert_eq!(server.poll_timeout(), Some(500));
    assert_eq!(server.handle_timeout(499), Ok(()));
    assert_eq!(
        server.handle_timeout(500),
        Err(ZmtpError::Silent { ttl_ms: 500 })
    );
    assert_eq!(server.poll_timeout(), None);
}

#[test]
fn before_ready_no_message_and_no_other_socket_type() {
    let mut server = Peer::new(Arc::new(null_pair().0), 0, [0; 96]);
    let mut client = Peer::new(Arc::new(null_pair().1), 0, [0; 96]);
    let greeting = client.out().take();
    feed(&mut server, &greeting, &mut Vec::new()).unwrap();
    server.out().take();
    let error = feed(&mut server, b"\x00\x01x", &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), "unexpected");

    let mut server = Peer::new(Arc::new(null_pair().0), 0, [0; 96]);
    feed(&mut server, &greeting, &mut Vec::new()).unwrap();
    server.out().take();
    let ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB";
    let error = feed(&mut server, ready, &mut Vec::new()).unwrap_err();
    assert_eq!(error, ZmtpError::SocketType("PUB".into()));
    assert_eq!(
        server.out().take(),
        b"\x04\x18\x05ERROR\x11socket type \"PUB\""
    );
    assert_eq!(server.handle_timeout(1 << 40), Ok(()));
}

#[test]
fn a_slow_handshake_ends() {
    let mut server = Peer::new(Arc::new(null_pair().0), 1_000, [0; 96]);
    feed(&mut server, &[0xff], &mut Vec::new()).unwrap();
    assert_eq!(server.poll_timeout(), Some(1_000 + limits::HANDSHAKE_MS));
    let error = server
        .handle_timeout(1_000 + limits::HANDSHAKE_MS)
        .unwrap_err();
    assert_eq!(error.kind(), "handshake_timeout");
}

/// What a server sees of a conversation, cut as `cuts` say.
fn conversation(pair: (Config, Config), messages: &[Vec<u8>], cuts: &[usize]) -> Vec<Seen> {
    let mut pair = Pair::new(pair);
    let mut cuts = cuts.iter().cycle();
    let mut sent = false;
    loop {
        if pair.client.is_ready() && !sent {
            messages
                .iter()
                .for_each(|message| assert!(pair.client.send(message)));
            sent = true;
        }
        let bytes = pair.client.out().take();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            feed(&mut pair.server, now, &mut pair.at_server).unwrap();
            rest = later;
        }
        let back = pair.server.out().take();
        if bytes.is_empty() && back.is_empty() {
            return pair.at_server;
        }
        feed(&mut pair.client, &back, &mut pair.at_client).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_split_gives_the_same_frames(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8),
        cuts in prop::collection::vec(1usize..400, 1..30),
        curve: bool,
    ) {
        let pair = || if curve { curve_pair(None) } else { null_pair() };
        let whole = conversation(pair(), &messages, &[usize::MAX]);
        prop_assert_eq!(whole.len(), messages.len() + 1);
        prop_assert_eq!(&conversation(pair(), &messages, &cuts), &whole);
        prop_assert_eq!(&conversation(pair(), &messages, &[1]), &whole);
    }

    #[test]
    fn any_bytes_at_any_point_give_frames_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        at in 0usize..4,
        curve: bool,
    ) {
        let mut pair = Pair::new(if curve { curve_pair(None) } else { null_pair() });
        for _ in 0..at {
            let to_server = pair.client.out().take();
            feed(&mut pair.server, &to_server, &mut Vec::new()).unwrap();
            let to_client = pair.server.out().take();
            feed(&mut pair.client, &to_client, &mut Vec::new()).unwrap();
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let _ = feed(&mut pair.server, &bytes, &mut a);
        let _ = feed(&mut pair.client, &bytes, &mut b);
        prop_assert!(pair.server.in_bytes() <= bytes.len());
    }
}
