//! What clients send: packets on streams, frames of any protocol, netcode's datagrams and tokens.

use std::net::SocketAddr;

use zmqgame_core::edge::netcode::client::Client;
use zmqgame_core::edge::netcode::packet::{
    CHALLENGE_BODY_BYTES, Header, Kind, PacketKey, Request, split_challenge_body,
};
use zmqgame_core::edge::netcode::server::{Event, Received, Server, ServerConfig, ServerEntropy};
use zmqgame_core::edge::netcode::token::{
    Challenge, ConnectToken, PrivateToken, TokenEntropy, TokenSpec,
};
use zmqgame_core::stream::frame::{FrameDecoder, FrameError, Framing, LengthField};
use zmqgame_core::stream::packet::{self, Batch, PacketError};
use zmqgame_core::stream::ring::RingBuffer;

use crate::Target;
use crate::split::{Steps, Stream, push_step, stream};

pub const PACKETS: Target = Target {
    name: "client_packets",
    body: packets,
    seeds: packet_seeds,
    per_byte: 128,
    fixed: 16 << 10,
};
pub const FRAMES: Target = Target {
    name: "frames",
    body: frames,
    seeds: frame_seeds,
    per_byte: 128,
    fixed: 16 << 10,
};
pub const NETCODE_SERVER: Target = Target {
    name: "netcode_server",
    body: server,
    seeds: server_seeds,
    per_byte: 64,
    fixed: 256 << 10,
};
pub const NETCODE_CLIENT: Target = Target {
    name: "netcode_client",
    body: client,
    seeds: client_seeds,
    per_byte: 64,
    fixed: 256 << 10,
};
pub const NETCODE_PACKET: Target = Target {
    name: "netcode_packet",
    body: sealed,
    seeds: sealed_seeds,
    per_byte: 8,
    fixed: 16 << 10,
};
pub const CONNECT_TOKEN: Target = Target {
    name: "connect_token",
    body: connect_token,
    seeds: || vec![token().write().to_vec(), private().write().to_vec()],
    per_byte: 8,
    fixed: 16 << 10,
};

/// A packet of the clients' protocol is at most this long here.
const LIMIT: usize = 512;

type Packets = (Vec<(u8, u64, Vec<u8>)>, Option<PacketError>);

fn rows(batch: &Batch) -> Vec<(u8, u64, Vec<u8>)> {
    (0..batch.len())
        .map(|row| {
            let payload = batch.payload(row).to_vec();
            (batch.kind[row], batch.sequence[row], payload)
        })
        .collect()
}

fn whole_packets(bytes: &[u8]) -> (Packets, usize) {
    let mut batch = Batch::default();
    batch.arena.extend_from_slice(bytes);
    let decoded = batch.decode_arena(1, 0, LIMIT);
    assert_eq!(decoded.packets, batch.len());
    assert!(decoded.consumed <= bytes.len());
    ((rows(&batch), decoded.error), decoded.consumed)
}

/// The same packets from any pieces; what was decoded encodes to the bytes that were consumed.
fn packets(data: &[u8]) {
    let stream = Stream::new(data);
    let (whole, consumed) = whole_packets(stream.bytes);
    let mut written = Vec::new();
    for (kind, sequence, payload) in &whole.0 {
        let (kind, sequence) = (*kind, *sequence);
        packet::write_packet(&mut written, packet::Header { kind, sequence }, payload);
    }
    assert_eq!(written.len(), consumed);
    let (mut ring, mut batch) = (
        RingBuffer::new(LIMIT + packet::PREFIX_BYTES + 256),
        Batch::default(),
    );
    let mut error = None;
    for piece in stream.pieces().iter().flat_map(|piece| piece.chunks(256)) {
        ring.push(piece).expect("room for a packet and a piece");
        error = batch.decode_ring(1, &mut ring, LIMIT).error;
        if error.is_some() {
            break;
        }
    }
    assert_eq!((rows(&batch), error), whole);
}

fn packet_seeds() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for (kind, sequence, payload) in [
        (1, 1, &b"hello"[..]),
        (packet::KIND_OPEN, 0, b""),
        (7, u64::MAX, &[9; 300]),
        (packet::KIND_CLOSE, 0, b"x"),
    ] {
        packet::write_packet(&mut bytes, packet::Header { kind, sequence }, payload);
    }
    vec![
        stream(&[], &bytes),
        stream(&[1, 5, 0], &bytes),
        stream(&[3], &bytes[..20]),
    ]
}

pub(crate) fn framing(rule: &[u8; 6]) -> Option<Framing> {
    let [kind, a, b, c, d, limit] = *rule;
    let limit = usize::from(limit) * 4;
    match kind % 4 {
        0 => Framing::length_field(LengthField {
            offset: usize::from(a % 8),
            size: usize::from(b % 10),
            big_endian: kind > 127,
            adjustment: i64::from(c.cast_signed()),
            strip: usize::from(d % 16),
            limit,
        }),
        1 => Framing::line(limit),
        2 => Framing::delimiter(&[a, b, c][..usize::from(d % 4)], limit),
        _ => Framing::fixed(usize::from(a)),
    }
    .ok()
}

pub(crate) fn cut(framing: &Framing, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let (mut decoder, mut frames) = (FrameDecoder::new(framing.clone()), Vec::new());
    for piece in pieces {
        if decoder
            .feed(piece, |frame| frames.push(frame.to_vec()))
            .is_err()
        {
            break;
        }
        assert!(decoder.waiting_bytes() <= 8 << 10, "what it keeps");
    }
    (frames, decoder.error())
}

/// Six bytes of parameters, then a stream: the same frames from any pieces.
fn frames(data: &[u8]) {
    let Some((rule, rest)) = data.split_first_chunk::<6>() else {
        return;
    };
    let Some(framing) = framing(rule) else {
        return;
    };
    let stream = Stream::new(rest);
    assert_eq!(
        cut(&framing, &stream.pieces()),
        cut(&framing, &[stream.bytes])
    );
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let seed = |rule: [u8; 6], bytes: &[u8]| [&rule[..], &stream(&[2, 1, 9], bytes)].concat();
    vec![
        seed([0, 0, 2, 0, 2, 30], b"\x03\x00abc\x00\x00\x01\x00x"),
        seed(
            [0x80, 1, 4, 251, 0, 30],
            b"\x01\x00\x00\x00\x09abcd\x01\x00\x00\x00\x05",
        ),
        seed([1, 0, 0, 0, 0, 30], b"one\r\ntwo\n\nthree"),
        seed([2, b'-', b'-', 0, 2, 30], b"one--two---three--"),
        seed([3, 5, 0, 0, 0, 0], b"0123456789abcdef"),
    ]
}

const KEY: [u8; 32] = [5; 32];
const PROTOCOL: u64 = 0x1122_3344_5566_7788;
const NOW_S: u64 = 1_800_000_000;

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn token_of(client_id: u64) -> ConnectToken {
    let spec = TokenSpec {
        protocol_id: PROTOCOL,
        create_s: NOW_S,
        expire_s: NOW_S + 30,
        timeout_s: 5,
        client_id,
        servers: &[address(40_000), address(40_001)],
        user_data: &[8; 256],
    };
    let entropy = TokenEntropy::from_bytes(&[client_id as u8; TokenEntropy::BYTES]);
    ConnectToken::generate(&spec, &KEY, entropy).expect("a good token")
}

fn token() -> ConnectToken {
    token_of(1)
}

fn private() -> PrivateToken {
    PrivateToken {
        client_id: 1,
        timeout_s: 5,
        servers: vec![address(40_000)],
        client_to_server: [1; 32],
        server_to_client: [2; 32],
        user_data: [3; 256],
    }
}

/// The kind and a body of a length that it may have.
fn body(what: u8, bytes: &[u8]) -> (Kind, Vec<u8>) {
    let (kind, length) = match what % 6 {
        0 => (Kind::Denied, 0),
        1 => (Kind::Challenge, CHALLENGE_BODY_BYTES),
        2 => (Kind::Response, CHALLENGE_BODY_BYTES),
        3 => (Kind::KeepAlive, 8),
        4 => (Kind::Disconnect, 0),
        _ => (Kind::Payload, bytes.len().clamp(1, 1_200)),
    };
    let mut body = bytes.to_vec();
    body.resize(length, 0);
    (kind, body)
}

/// A datagram with one byte changed, if two bytes say where and how.
fn changed(datagram: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut datagram = datagram.to_vec();
    if let [at, with, ..] = bytes {
        let length = datagram.len();
        datagram[usize::from(*at) * 5 % length] ^= with;
    }
    datagram
}

/// Anything sealed with a client's own key.
fn under_key(key: &PacketKey, what: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let (kind, body) = body(kind, rest);
    let sequence = u64::from(rest.first().copied().unwrap_or_default()) << (what >> 3);
    let mut datagram = Vec::new();
    key.seal(PROTOCOL, kind, sequence, &body, &mut datagram);
    datagram
}

/// A server, three honest clients, and strangers on their addresses.
fn server(data: &[u8]) {
    let config = ServerConfig::new(PROTOCOL, KEY, address(40_000), 2);
    let entropy = ServerEntropy::from_bytes(&[6; ServerEntropy::BYTES]);
    let mut server = Server::new(config, &entropy, 0, NOW_S * 1_000);
    let mut clients: Vec<Client> = (1..=3)
        .map(|id| Client::new(&token_of(id).write()[..]).expect("a good token"))
        .collect();
    let keys: Vec<PacketKey> = (1..=3)
        .map(|id| PacketKey::new(&token_of(id).client_to_server))
        .collect();
    let (mut now_ms, mut keys_in_use) = (0, Vec::new());
    for client in &mut clients {
        client.start(0);
    }
    for (what, bytes) in Steps(data) {
        let who = usize::from(what >> 4) % clients.len();
        let from = address(50_000 + who as u16);
        let receive = |server: &mut Server, mut datagram: Vec<u8>| {
            if let Received::Payload { bytes, .. } =
                server.handle_datagram(now_ms, from, &mut datagram)
            {
                assert!((1..=1_200).contains(&bytes.len()));
            }
        };
        match what & 0x0f {
            0..=3 => receive(&mut server, bytes.to_vec()),
            // What the honest client has to say, changed at one place if two bytes say where and how.
            4..=6 => {
                while let Some((_, datagram)) = clients[who].poll_datagram() {
                    let datagram = changed(datagram, bytes);
                    receive(&mut server, datagram);
                }
            }
            // Anything under the client's key.
            7 | 8 => {
                if let Some((&kind, rest)) = bytes.split_first() {
                    receive(&mut server, under_key(&keys[who], what, kind, rest));
                }
            }
            9 => now_ms += 50 * bytes.len() as u64,
            10 => server.handle_wall_clock(now_ms, NOW_S * 1_000 + 1_000 * bytes.len() as u64),
            11 => {
                for &client in &keys_in_use {
                    let _gone = server.send(now_ms, client, bytes);
                }
            }
            12 => {
                for &client in &keys_in_use {
                    server.disconnect(now_ms, client);
                }
            }
            13 => server.disconnect_all(now_ms),
            _ => clients[who].handle_timeout(now_ms),
        }
        server.handle_timeout(now_ms);
        while let Some((to, datagram)) = server.poll_datagram() {
            let mut datagram = datagram.to_vec();
            let who = usize::from(to.port() - 50_000);
            clients[who].handle_datagram(now_ms, address(40_000), &mut datagram);
        }
        while let Some(event) = server.poll_event() {
            if let Event::Connected { client, .. } = event {
                keys_in_use.push(client);
            }
        }
        assert!(server.connected() <= 2 && server.pending() <= 64);
    }
}

fn server_seeds() -> Vec<Vec<u8>> {
    let mut seed = Vec::new();
    for who in [0u8, 0x10, 0x20] {
        push_step(&mut seed, who | 4, b"");
        push_step(&mut seed, who | 5, b"");
        push_step(&mut seed, who | 7, b"\x05\x01hello");
        push_step(&mut seed, who | 9, &[0; 3]);
    }
    push_step(&mut seed, 11, b"news");
    push_step(&mut seed, 4, &[7, 1]);
    let mut ends = seed.clone();
    push_step(&mut seed, 9, &[0; 200]);
    push_step(&mut ends, 8, b"\x04\x09");
    push_step(&mut ends, 12, b"");
    push_step(&mut ends, 13, b"");
    let mut raw = Vec::new();
    Request::write(&token(), &mut raw);
    let mut request = Vec::new();
    push_step(&mut request, 0, &raw);
    push_step(&mut request, 10, &[0; 31]);
    push_step(&mut request, 0x10, &raw);
    let mut malformed = Vec::new();
    push_step(&mut malformed, 0, &[&[0x85][..], &[0; 17]].concat());
    vec![seed, ends, request, malformed]
}

/// A client whose server is the fuzzer, with the right key.
fn client(data: &[u8]) {
    let mut client = Client::new(&token().write()[..]).expect("a good token");
    let key = PacketKey::new(&token().server_to_client);
    let mut now_ms = 0;
    client.start(0);
    for (what, bytes) in Steps(data) {
        let server = client.server();
        match what & 0x0f {
            0..=4 => {
                client.handle_datagram(now_ms, server, &mut bytes.to_vec());
            }
            5..=9 => {
                let (kind, body) = body(what, bytes);
                let mut datagram = Vec::new();
                key.seal(PROTOCOL, kind, u64::from(what) << 3, &body, &mut datagram);
                client.handle_datagram(now_ms, server, &mut datagram);
            }
            10 => now_ms += 50 * bytes.len() as u64,
            11 => {
                let _not_connected = client.send(now_ms, bytes);
            }
            12 => client.disconnect(now_ms),
            _ => client.handle_timeout(now_ms),
        }
        client.handle_timeout(now_ms);
        while let Some((_, datagram)) = client.poll_datagram() {
            assert!(datagram.len() <= 1_225);
        }
    }
}

fn client_seeds() -> Vec<Vec<u8>> {
    let mut seed = Vec::new();
    push_step(&mut seed, 7, &[1; 308]); // a challenge
    push_step(&mut seed, 9, &[1, 0, 0, 0, 2, 0, 0, 0]); // a keep-alive
    push_step(&mut seed, 5, b"payload");
    push_step(&mut seed, 11, b"answer");
    push_step(&mut seed, 10, &[0; 20]);
    let mut denied = Vec::new();
    push_step(&mut denied, 6, b"");
    push_step(&mut denied, 10, &[0; 200]);
    push_step(&mut denied, 0, &[0x85; 18]);
    vec![seed, denied]
}

/// One datagram under a known key, and one read as each kind of thing.
fn sealed(data: &[u8]) {
    let key = PacketKey::new(&KEY);
    let mut copy = data.to_vec();
    if let Ok(header) = Header::read(&copy)
        && let Ok(body) = key.open(PROTOCOL, &header, &mut copy)
    {
        let (kind, sequence, body) = (header.kind, header.sequence, body.to_vec());
        let mut again = Vec::new();
        key.seal(PROTOCOL, kind, sequence, &body, &mut again);
        let header = Header::read(&again).expect("what we seal is a packet");
        let opened = key.open(PROTOCOL, &header, &mut again);
        assert_eq!(opened.map(|bytes| bytes.to_vec()), Ok(body));
    }
    let mut copy = data.to_vec();
    if let Some(request) = Request::read(&mut copy) {
        assert!(Request::is(data));
        assert_eq!(request.private.len(), 1_024);
    }
    let mut copy = data.to_vec();
    if let Some((sequence, challenge)) = split_challenge_body(&mut copy) {
        let _not_ours = Challenge::open(challenge, sequence, &key);
    }
    let Some((&what, rest)) = data.split_first() else {
        return;
    };
    let (kind, body) = body(what, rest);
    let mut datagram = Vec::new();
    key.seal(
        PROTOCOL,
        kind,
        u64::from(what) << (what % 56),
        &body,
        &mut datagram,
    );
    let header = Header::read(&datagram).expect("what we seal is a packet");
    let opened = key.open(PROTOCOL, &header, &mut datagram);
    assert_eq!(opened.map(|bytes| bytes.to_vec()), Ok(body));
}

fn sealed_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..6)
        .map(|what| {
            let (kind, body) = body(what, b"body");
            let mut datagram = Vec::new();
            PacketKey::new(&KEY).seal(PROTOCOL, kind, 1 << (9 * what), &body, &mut datagram);
            datagram
        })
        .collect();
    let mut request = Vec::new();
    Request::write(&token(), &mut request);
    seeds.push(request);
    seeds.push([&[0x85][..], &[0; 17]].concat());
    seeds
}

/// A token that is read is written as the bytes that it came from, but for its padding.
fn connect_token(data: &[u8]) {
    if let Ok(token) = ConnectToken::read(data) {
        let written = token.write();
        let again = ConnectToken::read(&written[..]).expect("what we write");
        assert_eq!(again.write(), written);
        assert!(Client::new(data).is_ok());
    }
    if let Ok(token) = PrivateToken::read(data) {
        assert!((1..=32).contains(&token.servers.len()));
        let written = token.write();
        let again = PrivateToken::read(&written[..]).expect("what we write");
        assert_eq!(again.write(), written);
    }
}
