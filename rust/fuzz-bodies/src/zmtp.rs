//! ZMTP: one peer that is fed a stream, whole and in pieces; and a CURVE session with valid boxes around
//! anything.

use std::sync::Arc;

use zmqgame_core::zmtp::{Config, Entropy, Event, Peer, Role, SecretKey, Security, ZmtpError};

use crate::Target;
use crate::split::{Steps, Stream, push_step, stream};

/// A frame of the bus is 2 MiB; with less, the limit itself is within the fuzzer's reach.
const MAX_FRAME_BYTES: usize = 2_048;
const FIXED: usize = 64 << 10;
const PER_BYTE: usize = 16;

pub const NULL_SERVER: Target = Target {
    name: "zmtp_null_server",
    body: |data| streamed(Side::NullServer, data),
    seeds: || seeds(Side::NullServer),
    per_byte: PER_BYTE,
    fixed: FIXED,
};
pub const NULL_CLIENT: Target = Target {
    name: "zmtp_null_client",
    body: |data| streamed(Side::NullClient, data),
    seeds: || seeds(Side::NullClient),
    per_byte: PER_BYTE,
    fixed: FIXED,
};
pub const CURVE_SERVER: Target = Target {
    name: "zmtp_curve_server",
    body: |data| streamed(Side::CurveServer, data),
    seeds: || seeds(Side::CurveServer),
    per_byte: PER_BYTE,
    fixed: FIXED,
};
pub const CURVE_CLIENT: Target = Target {
    name: "zmtp_curve_client",
    body: |data| streamed(Side::CurveClient, data),
    seeds: || seeds(Side::CurveClient),
    per_byte: PER_BYTE,
    fixed: FIXED,
};
pub const CURVE_TRAFFIC: Target = Target {
    name: "zmtp_curve_traffic",
    body: traffic,
    seeds: traffic_seeds,
    per_byte: PER_BYTE,
    fixed: FIXED,
};

#[derive(Clone, Copy)]
enum Side {
    NullServer,
    NullClient,
    CurveServer,
    CurveClient,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::NullServer => Self::NullClient,
            Self::NullClient => Self::NullServer,
            Self::CurveServer => Self::CurveClient,
            Self::CurveClient => Self::CurveServer,
        }
    }

    fn peer(self) -> Peer {
        let (server, client) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
        let (role, security, entropy): (_, _, Entropy) = match self {
            Self::NullServer => (Role::Server, Security::Null, [0; 96]),
            Self::NullClient => (Role::Client, Security::Null, [0; 96]),
            Self::CurveServer => {
                let allowed = Some([client.public()].into());
                let security = Security::CurveServer {
                    secret: server,
                    allowed,
                };
                (Role::Server, security, [3; 96])
            }
            Self::CurveClient => {
                let security = Security::CurveClient {
                    server: server.public(),
                    secret: client,
                };
                (Role::Client, security, [4; 96])
            }
        };
        let mut config = Config::new(role, security);
        config.max_frame_bytes = MAX_FRAME_BYTES;
        config.identity = b"fuzz".to_vec();
        Peer::new(Arc::new(config), 0, entropy)
    }
}

/// All that a stream did to a peer.
#[derive(Debug, PartialEq, Eq, Default)]
struct Effect {
    frames: Vec<Vec<u8>>,
    ready: Vec<String>,
    error: Option<ZmtpError>,
    out: Vec<u8>,
}

fn output(peer: &mut Peer) -> Vec<u8> {
    let mut all = Vec::new();
    while !peer.out().is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 16];
        let filled = peer.out().slices(&mut slices);
        let count = slices[..filled]
            .iter()
            .map(|slice| {
                all.extend_from_slice(slice);
                slice.len()
            })
            .sum();
        peer.out().consume(count);
    }
    all
}

fn feed(side: Side, pieces: &[&[u8]]) -> Effect {
    let mut peer = side.peer();
    let mut effect = Effect::default();
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let result = peer.handle_input(1, &mut bytes, &mut |event| match event {
            Event::Ready(established) => {
                assert!(effect.frames.is_empty(), "a message before the handshake");
                effect.ready.push(format!("{established:?}"));
            }
            Event::Frame(frame) => {
                assert!(!effect.ready.is_empty(), "a message before the handshake");
                assert!(frame.len() <= MAX_FRAME_BYTES, "a frame over the limit");
                effect.frames.push(frame.to_vec());
            }
        });
        if let Err(error) = result {
            assert!(effect.error.is_none(), "two ends");
            effect.error = Some(error);
        }
        assert!(peer.in_bytes() <= MAX_FRAME_BYTES + 64, "what it keeps");
    }
    assert!(effect.ready.len() <= 1, "ready twice");
    effect.out = output(&mut peer);
    effect
}

fn streamed(side: Side, data: &[u8]) {
    let stream = Stream::new(data);
    let whole = feed(side, &[stream.bytes]);
    assert_eq!(feed(side, &stream.pieces()), whole, "pieces");
    if stream.bytes.len() <= 1_024 {
        let single: Vec<&[u8]> = stream.bytes.chunks(1).collect();
        assert_eq!(feed(side, &single), whole, "single bytes");
    }
}

/// What the other side says in an honest conversation with some traffic.
fn honest(side: Side) -> Vec<u8> {
    let (mut ours, mut theirs) = (side.peer(), side.other().peer());
    let mut said = Vec::new();
    for round in 0..6 {
        let mut bytes = output(&mut theirs);
        said.extend_from_slice(&bytes);
        ours.handle_input(0, &mut bytes, &mut |_| ())
            .expect("honest");
        let mut back = output(&mut ours);
        theirs
            .handle_input(0, &mut back, &mut |_| ())
            .expect("honest");
        if round == 4 {
            assert!(theirs.send(b"hello") && theirs.send(&[7; 300]) && theirs.send(b""));
            theirs.ping();
        }
    }
    said
}

fn seeds(side: Side) -> Vec<Vec<u8>> {
    let said = honest(side);
    let mut seeds = vec![
        stream(&[], &said),
        stream(&[1, 0, 7], &said),
        stream(&[], &said[..64]),
    ];
    let cut = said.len().min(64 + 6 + 200);
    let mut error = said[..cut].to_vec();
    error.extend_from_slice(b"\x04\x09\x05ERROR\x03400");
    seeds.push(stream(&[9], &error));
    if matches!(side, Side::NullServer | Side::NullClient) {
        let mut more = said;
        more.extend_from_slice(b"\x01\x01a\x00\x01b"); // two parts
        more.extend_from_slice(b"\x04\x09\x04PING\x00\x0acd");
        more.extend_from_slice(b"\x02\x00\x00\x00\x00\x00\x00\x08\x01");
        seeds.push(stream(&[3], &more));
    }
    seeds
}

/// A CURVE session: the client boxes what the steps say, the fuzzer's bytes go around and between.
fn traffic(data: &[u8]) {
    let (mut server, mut client) = (Side::CurveServer.peer(), Side::CurveClient.peer());
    for _ in 0..6 {
        let mut bytes = output(&mut client);
        server
            .handle_input(0, &mut bytes, &mut |_| ())
            .expect("honest");
        let mut bytes = output(&mut server);
        client
            .handle_input(0, &mut bytes, &mut |_| ())
            .expect("honest");
    }
    assert!(server.is_ready() && client.is_ready());
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let mut honest = true;
    for (what, bytes) in Steps(data) {
        match what % 5 {
            0 => {
                client.send(bytes);
                sent.push(bytes.to_vec());
            }
            1 => client.ping(),
            // Bytes of nobody's making between the boxes.
            2 => {
                if !bytes.is_empty() {
                    honest = false;
                }
                client
                    .out()
                    .append(|out: &mut Vec<u8>| out.extend_from_slice(bytes));
            }
            3 => {
                client.send_owned(bytes.to_vec());
                sent.push(bytes.to_vec());
            }
            // One byte of what is under way changes.
            _ => {
                let mut boxed = output(&mut client);
                if let (Some(&at), Some(&with)) = (bytes.first(), bytes.get(1)) {
                    let length = boxed.len();
                    if let Some(byte) = boxed.get_mut(usize::from(at) % length.max(1)) {
                        *byte ^= with;
                        honest &= with == 0;
                    }
                }
                client
                    .out()
                    .append(|out: &mut Vec<u8>| out.extend_from_slice(&boxed));
            }
        }
    }
    let mut bytes = output(&mut client);
    let mut got: Vec<Vec<u8>> = Vec::new();
    let result = server.handle_input(0, &mut bytes, &mut |event| {
        if let Event::Frame(frame) = event {
            got.push(frame.to_vec());
        }
    });
    assert!(got.len() <= sent.len(), "more than was sent");
    assert_eq!(
        got,
        sent[..got.len()],
        "what was sealed comes as it was sealed, in order"
    );
    if honest && sent.iter().all(|frame| frame.len() <= MAX_FRAME_BYTES) {
        assert_eq!((result, got.len()), (Ok(()), sent.len()));
    }
}

fn traffic_seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    push_step(&mut all, 0, b"one");
    push_step(&mut all, 1, b"");
    push_step(&mut all, 3, &[1; 300]);
    push_step(&mut all, 0, b"");
    let mut foreign = all.clone();
    push_step(&mut foreign, 2, b"\x00\x22\x07MESSAGE\x00\x00\x00\x00");
    let mut changed = all.clone();
    push_step(&mut changed, 4, &[20, 1]);
    let mut long = all.clone();
    push_step(&mut long, 0, &[5; MAX_FRAME_BYTES]);
    push_step(&mut long, 0, &[5; MAX_FRAME_BYTES + 1]);
    vec![all, foreign, changed, long]
}
