//! What connections are made of: the ring buffer, a listener's frames both ways, WebSocket from its request on,
//! PROXY headers.

use std::collections::VecDeque;

use zmqgame_core::edge::proxy;
use zmqgame_core::stream::ring::RingBuffer;
use zmqgame_reactor::edge::websocket::{WebSocket, read_request, refusal};
use zmqgame_reactor::edge::websocket_client::read_answer;

use crate::Target;
use crate::edge::{cut, frame_seeds, framing};
use crate::split::{Steps, Stream, push_step, stream};

pub const RING: Target = Target {
    name: "ring",
    body: ring,
    seeds: ring_seeds,
    per_byte: 16,
    fixed: 64 << 10,
};
pub const LISTENER_FRAMES: Target = Target {
    name: "listener_frames",
    body: listener_frames,
    seeds: frame_seeds,
    per_byte: 256,
    fixed: 32 << 10,
};
pub const WEBSOCKET: Target = Target {
    name: "websocket",
    body: websocket,
    seeds: websocket_seeds,
    per_byte: 64,
    fixed: 64 << 10,
};

pub const PROXY: Target = Target {
    name: "proxy_v2",
    body: proxy_v2,
    seeds: proxy_seeds,
    per_byte: 16,
    fixed: 16 << 10,
};

/// A ring against a queue of bytes that does the same.
fn ring(data: &[u8]) {
    let Some((&limit, rest)) = data.split_first() else {
        return;
    };
    let limit = usize::from(limit) * 16;
    let (mut ring, mut model) = (RingBuffer::new(limit), VecDeque::new());
    let mut now_ms = 0;
    for (what, bytes) in Steps(rest) {
        let count = bytes.len().min(model.len());
        match what & 0x07 {
            0..=2 => {
                let fits = model.len() + bytes.len() <= limit;
                assert_eq!(ring.push(bytes).is_ok(), fits);
                model.extend(bytes.iter().take(if fits { bytes.len() } else { 0 }));
            }
            3 => write_spare(&mut ring, &mut model, bytes),
            4 => {
                let expected: Vec<u8> = model.iter().copied().collect();
                assert_eq!(ring.contiguous(), expected);
            }
            5 => {
                ring.consume(count);
                model.drain(..count);
            }
            6 => {
                now_ms += u64::from(what) * 10;
                ring.tick(now_ms, 1_000);
            }
            _ => ring.shrink(),
        }
        let readable = ring.readable().concat();
        assert!(readable.iter().eq(&model) && ring.len() == model.len());
        assert!(ring.capacity() <= limit.next_power_of_two().max(1 << 10));
        assert_eq!(ring.room(), limit - model.len());
    }
}

/// As a socket is read: into what is spare, as much as came.
fn write_spare(ring: &mut RingBuffer, model: &mut VecDeque<u8>, bytes: &[u8]) {
    if ring.reserve(bytes.len()).is_err() {
        return;
    }
    let [first, second] = ring.spare();
    let split = bytes.len().min(first.len());
    first[..split].copy_from_slice(&bytes[..split]);
    second[..bytes.len() - split].copy_from_slice(&bytes[split..]);
    ring.commit(bytes.len());
    model.extend(bytes);
}

fn ring_seeds() -> Vec<Vec<u8>> {
    let mut seed = vec![60];
    for round in 0..6u8 {
        push_step(&mut seed, 0, &[round; 200]);
        push_step(&mut seed, 5, &[0; 150]);
        push_step(&mut seed, 3, &[round; 90]);
        push_step(&mut seed, 4, b"");
    }
    push_step(&mut seed, 0xfe, b"");
    push_step(&mut seed, 7, b"");
    let mut full = vec![2];
    push_step(&mut full, 0, &[1; 33]);
    push_step(&mut full, 1, &[1; 32]);
    push_step(&mut full, 5, &[0; 9]);
    push_step(&mut full, 0xfe, b"");
    push_step(&mut full, 2, b"wraps");
    vec![seed, full]
}

/// Any pieces give the same frames; what was cut can be put together again.
fn listener_frames(data: &[u8]) {
    let Some((rule, rest)) = data.split_first_chunk::<6>() else {
        return;
    };
    let Some(framing) = framing(rule) else {
        return;
    };
    let stream = Stream::new(rest);
    let whole = cut(&framing, &[stream.bytes]);
    assert_eq!(cut(&framing, &stream.pieces()), whole);
    if framing.check_both_ways().is_err() {
        return;
    }
    // A line's carriage return belongs to its end: put before another end it is gone.
    let frames = whole.0.iter().filter(|frame| !frame.ends_with(b"\r"));
    for frame in frames {
        let mut out = Vec::new();
        if framing.encode(frame, &mut out).is_ok() {
            assert_eq!(cut(&framing, &[&out]), (vec![frame.clone()], None));
        }
    }
}

/// The longest message here.
const LIMIT: usize = 600;

/// What a connection sees: its messages, whether the request was taken, and whether it ended badly.
fn serve(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool, bool) {
    let (mut head, mut seen, mut messages) = (Vec::new(), 0, Vec::new());
    let mut socket: Option<WebSocket> = None;
    for piece in pieces {
        let mut rest = piece.to_vec();
        if socket.is_none() {
            head.extend_from_slice(piece);
            match read_request(&head, seen) {
                Ok(None) => {
                    seen = head.len();
                    continue;
                }
                Ok(Some((answer, size))) => {
                    assert!(answer.starts_with(b"HTTP/1.1 101 "));
                    assert!(size <= head.len());
                    rest = head.split_off(size);
                    socket = Some(WebSocket::new(LIMIT));
                }
                Err(reason) => {
                    assert!(refusal(&reason).starts_with("HTTP/1.1 400 "));
                    return (messages, false, true);
                }
            }
        }
        if let Some(socket) = &mut socket
            && !feed(socket, &rest, &mut messages)
        {
            return (messages, true, true);
        }
    }
    (messages, socket.is_some(), false)
}

/// Whether the bytes were taken; else the connection has been closed.
fn feed(socket: &mut WebSocket, bytes: &[u8], messages: &mut Vec<Vec<u8>>) -> bool {
    let mut output = RingBuffer::new(64 << 10);
    let fed = socket.feed(bytes, &mut output, |message| {
        messages.push(message.to_vec());
        Ok(())
    });
    output.clear();
    fed.map_err(|reason| socket.close(&reason, &mut output))
        .is_ok()
}

/// A request and frames: the same messages from any pieces, none over the limit.
fn websocket(data: &[u8]) {
    let stream = Stream::new(data);
    let whole = serve(&[stream.bytes]);
    assert!(whole.0.iter().all(|message| message.len() <= LIMIT));
    assert_eq!(serve(&stream.pieces()), whole);
    let heard = hear(&[stream.bytes]);
    assert!(heard.0.iter().all(|message| message.len() <= LIMIT));
    assert_eq!(hear(&stream.pieces()), heard);
    there_and_back(&stream);
    // The frames alone, behind a request that is right.
    let behind = [REQUEST, stream.bytes].concat();
    let mut pieces = vec![REQUEST];
    pieces.extend(stream.pieces());
    assert_eq!(serve(&pieces), serve(&[&behind]));
}

/// What our client hears of a server, as `serve`.
fn hear(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool, bool) {
    let (mut head, mut seen, mut messages) = (Vec::new(), 0, Vec::new());
    let mut socket: Option<WebSocket> = None;
    for piece in pieces {
        let mut rest = piece.to_vec();
        if socket.is_none() {
            head.extend_from_slice(piece);
            match read_answer(&head, seen, ACCEPT) {
                Ok(None) => {
                    seen = head.len();
                    continue;
                }
                Ok(Some(size)) => {
                    rest = head.split_off(size);
                    socket = Some(WebSocket::client(LIMIT));
                }
                Err(_) => return (messages, false, true),
            }
        }
        if let Some(socket) = &mut socket
            && !feed(socket, &rest, &mut messages)
        {
            return (messages, true, true);
        }
    }
    (messages, socket.is_some(), false)
}

/// What one side writes, in parts, the other reads, by itself and from pieces.
fn there_and_back(stream: &Stream<'_>) {
    let bytes = &stream.bytes[..stream.bytes.len().min(LIMIT)];
    let (head, rest) = bytes.split_at(bytes.len() / 3);
    let (first, second) = rest.split_at(rest.len() / 2);
    let sides = [WebSocket::client, WebSocket::new];
    for (from, to) in [(sides[0], sides[1]), (sides[1], sides[0])] {
        let mut output = RingBuffer::new(64 << 10);
        from(LIMIT)
            .write(head, &[first, &[], second], rest.len(), &mut output)
            .expect("room for a message");
        let (mut reader, mut messages) = (to(LIMIT), Vec::new());
        for piece in output.contiguous().chunks(1 + bytes.len() / 4) {
            let fed = reader.feed(piece, &mut RingBuffer::new(1 << 10), |message| {
                messages.push(message.to_vec());
                Ok(())
            });
            assert!(fed.is_ok());
        }
        assert_eq!(messages, [bytes]);
    }
}

const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const ANSWER: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

const REQUEST: &[u8] =
    b"GET /play HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// One frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    if payload.len() < 126 {
        out.push(0x80 | payload.len() as u8);
    } else {
        out.push(0x80 | 126);
        out.extend((payload.len() as u16).to_be_bytes());
    }
    let mask = [1, 2, 3, 4];
    out.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    out.extend(masked.map(|(byte, mask)| byte ^ mask));
    out
}

fn websocket_seeds() -> Vec<Vec<u8>> {
    let pieces = [
        frame(0x02, b"in "),
        frame(0x89, b"ping"),
        frame(0x80, b"pieces"),
    ]
    .concat();
    let close = frame(0x88, &[&1000u16.to_be_bytes()[..], b"bye"].concat());
    let talk = [frame(0x82, &[7; 300]), pieces, frame(0x8a, b""), close].concat();
    let whole = [REQUEST, &talk[..]].concat();
    vec![
        stream(&[], &whole),
        stream(&[1], &talk),
        stream(&[30, 3], &whole),
        stream(&[], &frame(0x82, &[1; 601])),
        stream(&[], &frame(0x81, b"text")),
        stream(&[], &[0x82, 0x01, b'x']),
        stream(&[9], b"GET / HTTP/1.0\r\n\r\n"),
        stream(
            &[40],
            &[
                ANSWER,
                b"\x82\x05hello\x02\x01a\x89\x00\x80\x01b\x88\x02\x03\xe8",
            ]
            .concat(),
        ),
        stream(&[], b"HTTP/1.1 404 Not Found\r\n\r\n"),
        stream(&[], &[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0]),
    ]
}

/// What a header is known to be at some byte it is with any more of them; a short one is waited for.
fn proxy_v2(data: &[u8]) {
    let mut known = None;
    for length in 0..=data.len().min(600) {
        let now = proxy::parse(&data[..length]);
        if let Some(before) = known {
            assert_eq!(now, before, "at {length}");
        }
        if let Ok(Some(header)) = now {
            assert!(header.bytes <= length && header.bytes <= proxy::LONGEST_BYTES);
        }
        if now != Ok(None) {
            known = Some(now);
        }
    }
    let whole = proxy::parse(data);
    assert!(known.is_none_or(|known| whole == known));
    assert!(whole != Ok(None) || data.len() < proxy::LONGEST_BYTES);
}

fn proxy_seeds() -> Vec<Vec<u8>> {
    let seed = |command: u8, family: u8, body: &[u8]| {
        let mut bytes = proxy::SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"the client's own");
        bytes
    };
    let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 80];
    let tlv = [&v4[..], &[0x04, 0, 3, 1, 2, 3, 0x05, 0, 2, b'i', b'd']].concat();
    let checksum = [&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
    vec![
        seed(1, 0x11, &v4),
        seed(1, 0x21, &[7; 36]),
        seed(1, 0x31, &[0; 216]),
        seed(0, 0x00, b""),
        seed(1, 0x11, &tlv),
        seed(1, 0x11, &checksum),
        seed(1, 0x12, &v4),
        b"PROXY TCP4 1.2.3.4".to_vec(),
    ]
}
