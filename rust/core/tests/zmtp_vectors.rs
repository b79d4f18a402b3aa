//! Recorded conversations with libzmq: the same bytes and messages for ever, in any split.

use std::path::Path;
use std::sync::Arc;

use zmqgame_core::zmtp::{Config, Event, Peer, Role, SecretKey, Security};

fn unhex(text: &str) -> Vec<u8> {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Lines `name hex`, wrapped lines joined.
fn read(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/zmtp");
    let text = std::fs::read_to_string(folder.join(name))
        .unwrap()
        .replace("\n  ", "");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.split_once(' ').unwrap_or((line, "")));
    pairs
        .map(|(name, hex)| (name.to_owned(), unhex(hex)))
        .collect()
}

fn peer(name: &str, lines: &[(String, Vec<u8>)]) -> Peer {
    let value = |name: &str| {
        lines
            .iter()
            .find(|line| line.0 == name)
            .map(|line| line.1.clone())
    };
    let key = |name: &str| value(name).map(|bytes| <[u8; 32]>::try_from(bytes).unwrap());
    let role = if name.contains("router") {
        Role::Server
    } else {
        Role::Client
    };
    let security = match (key("secret"), key("server_key")) {
        (None, _) => Security::Null,
        (Some(secret), None) => Security::CurveServer {
            secret: SecretKey::new(secret),
            allowed: None,
        },
        (Some(secret), Some(server)) => Security::CurveClient {
            server,
            secret: SecretKey::new(secret),
        },
    };
    let entropy = value("entropy").unwrap().try_into().unwrap();
    Peer::new(Arc::new(Config::new(role, security)), 0, entropy)
}

fn replay(name: &str, piece_bytes: usize) {
    let lines = read(name);
    let mut peer = peer(name, &lines);
    let mut got = Vec::new();
    let mut out = Vec::new();
    for (what, value) in &lines {
        match what.as_str() {
            "in" => {
                for piece in value.chunks(piece_bytes) {
                    let sink = &mut |event: Event<'_>| {
                        if let Event::Frame(frame) = event {
                            got.push(frame.to_vec());
                        }
                    };
                    peer.handle_input(0, &mut piece.to_vec(), sink).unwrap();
                    out.extend_from_slice(&peer.out().take());
                }
            }
            "send" => assert!(peer.send(value)),
            "out" => {
                out.extend_from_slice(&peer.out().take());
                assert!(out.starts_with(value), "{name}");
                out.drain(..value.len());
            }
            "message" => assert_eq!(&got.remove(0), value),
            _ => {}
        }
    }
    assert!(peer.is_ready() && got.is_empty() && out.is_empty());
}

#[test]
fn recorded_conversations_give_the_same_bytes_in_any_split() {
    for name in [
        "null-router.txt",
        "null-dealer.txt",
        "curve-router.txt",
        "curve-dealer.txt",
    ] {
        for piece_bytes in [1, 2, 7, 63, 64, 65, 1_000_000] {
            replay(name, piece_bytes);
        }
    }
}
