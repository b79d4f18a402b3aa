//! Load generators for echo servers, and the echo itself: one thread, many connections, `depth` messages
//! under way on each; when all of them are back, the next ones go out.

pub mod flood;
pub mod udp;

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use zmqgame_core::stream::packet::{
    Batch, FIRST_OWN_KIND, HEADER_BYTES, Header, PREFIX_BYTES, write_packet,
};

use crate::edge::{self, Handler, Out};
use crate::listener::connect_tcp;
use crate::reactor::{Interest, Reactor, Token};
use crate::stream::Stream;

/// How long a server may take to answer the request for a WebSocket.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How much longer a measurement may last in which nothing came back: the machine stands still now and then.
const FIRST_WITHIN: Duration = Duration::from_secs(20);
/// How often it is looked whether something came.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The longest WebSocket message whose length stands in the frame's second byte.
const SHORT_FRAME_BYTES: usize = 125;
/// Connections and messages under way on one: more are no use from one thread.
const MOST_CONNECTIONS: usize = 100_000;
const MOST_DEPTH: usize = 1_024;

/// What the messages are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Bytes without frames.
    Raw,
    /// The project's packets; their size is without the prefix.
    Packets,
    /// The project's packets as binary WebSocket messages.
    WebSocket,
}

/// What load there is to be.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What the messages are.
    pub wire: Wire,
    /// How many connections.
    pub connections: usize,
    /// Messages under way on each.
    pub depth: usize,
    /// Bytes of a message.
    pub message_bytes: usize,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Report {
    /// Echoes in the measured time.
    pub messages: u64,
    /// Echoes of the warm-up too.
    pub messages_in_all: u64,
    /// Datagrams of the measured time that did not come back in time.
    pub lost: u64,
    /// The measured time.
    pub duration: Duration,
    /// How long each round took, from the sending of `depth` messages to the last echo.
    pub rounds_us: Vec<u32>,
}

struct Peer {
    stream: Stream,
    /// Bytes that came of the echo that is not whole.
    partial: usize,
    since: Instant,
    /// Echoes of this round that are still to come.
    waiting: usize,
}

/// Connections that are open.
pub struct Load {
    reactor: Reactor,
    peers: Vec<Peer>,
    echo_bytes: usize,
    depth: usize,
    burst: Vec<u8>,
    report: Report,
}

/// The other side of a load: a handler that sends everything back.
#[derive(Debug, Clone, Copy)]
pub struct Echo;

impl Handler for Echo {
    fn handle(&mut self, batch: &Batch, out: &mut Out<'_>) {
        let rows = (0..batch.len()).filter(|&row| batch.kind[row] < FIRST_OWN_KIND);
        out.send_all(rows.map(|row| edge::Write {
            connection: batch.connection[row],
            kind: batch.kind[row],
            sequence: batch.sequence[row],
            payload: batch.payload(row),
        }));
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, what)
}

fn check(plan: &Plan) -> io::Result<()> {
    if !(1..=MOST_CONNECTIONS).contains(&plan.connections) {
        return Err(wrong("connections must be 1 to 100,000"));
    }
    if !(1..=MOST_DEPTH).contains(&plan.depth) {
        return Err(wrong("depth must be 1 to 1,024"));
    }
    let bytes = match plan.wire {
        Wire::Raw => 1..=65_536,
        Wire::Packets => HEADER_BYTES..=65_536,
        Wire::WebSocket => HEADER_BYTES..=SHORT_FRAME_BYTES,
    };
    if !bytes.contains(&plan.message_bytes) {
        return Err(wrong(
            "message bytes must be 1 to 65,536, with a packet's header at least 12, on WebSocket at most 125",
        ));
    }
    Ok(())
}

/// One message, and the bytes of its echo: a server's WebSocket frame has no mask.
fn message_of(plan: &Plan) -> (Vec<u8>, usize) {
    let header = Header {
        kind: 1,
        sequence: 7,
    };
    let mut message = Vec::new();
    match plan.wire {
        Wire::Raw => message.resize(plan.message_bytes, b'x'),
        Wire::Packets => {
            let payload = vec![b'x'; plan.message_bytes - HEADER_BYTES];
            write_packet(&mut message, header, &payload);
            debug_assert_eq!(message.len(), PREFIX_BYTES + plan.message_bytes);
        }
        Wire::WebSocket => {
            header.write(&mut message);
            message.resize(plan.message_bytes, b'x');
            let mask = [0x37, 0xfa, 0x21, 0x3d];
            let mut frame = vec![0x82, 0x80 | plan.message_bytes as u8];
            frame.extend(mask);
            let masked = message.iter().zip(mask.iter().cycle());
            frame.extend(masked.map(|(byte, mask)| byte ^ mask));
            return (frame, 2 + plan.message_bytes);
        }
    }
    let bytes = message.len();
    (message, bytes)
}

/// Asks for a WebSocket and waits for the answer's head.
fn upgrade(stream: &mut Stream, address: &str) -> io::Result<()> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer, start) = (Vec::new(), [0; 1024], Instant::now());
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => answer.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
        if start.elapsed() > ANSWER_WITHIN || answer.len() > 65_536 {
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                "no answer to the request for a WebSocket",
            ));
        }
    }
    if answer.starts_with(b"HTTP/1.1 101") {
        return Ok(());
    }
    Err(io::Error::other("the server refuses a WebSocket"))
}

impl Load {
    /// Opens the connections; nothing is sent but requests for WebSockets.
    ///
    /// # Errors
    /// The plan is out of its range, or a connection could not be opened.
    pub fn connect(address: &str, plan: &Plan) -> io::Result<Self> {
        check(plan)?;
        let (message, echo_bytes) = message_of(plan);
        let mut load = Self {
            reactor: Reactor::new()?,
            peers: Vec::with_capacity(plan.connections),
            echo_bytes,
            depth: plan.depth,
            burst: message.repeat(plan.depth),
            report: Report::default(),
        };
        for index in 0..plan.connections {
            let mut stream = connect_tcp(address)?;
            if plan.wire == Wire::WebSocket {
                upgrade(&mut stream, address)?;
            }
            load.reactor
                .register(&stream, Token(index as u64), Interest::READ)?;
            load.peers.push(Peer {
                stream,
                partial: 0,
                since: Instant::now(),
                waiting: plan.depth,
            });
        }
        Ok(load)
    }

    /// Sends and measures; what happens in `warm_up` counts only in all.
    ///
    /// # Errors
    /// A connection has broken or ended.
    pub fn run(mut self, warm_up: Duration, duration: Duration) -> io::Result<Report> {
        for peer in &mut self.peers {
            peer.since = Instant::now();
            send(&mut peer.stream, &self.burst)?;
        }
        self.turn(warm_up)?;
        (self.report.messages, self.report.rounds_us) = (0, Vec::new());
        let start = Instant::now();
        self.turn(duration)?;
        while self.report.rounds_us.is_empty() && start.elapsed() < duration + FIRST_WITHIN {
            self.turn(FIRST_LOOK)?;
        }
        self.report.duration = start.elapsed();
        self.report.rounds_us.sort_unstable();
        Ok(self.report)
    }

    fn turn(&mut self, duration: Duration) -> io::Result<()> {
        let (start, mut ready, mut buffer) = (Instant::now(), Vec::new(), vec![0; 65_536]);
        while start.elapsed() < duration {
            self.reactor.wait(&mut ready, Some(100))?;
            for event in &ready {
                self.echo(event.token.0 as usize, &mut buffer)?;
            }
        }
        Ok(())
    }

    fn echo(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<()> {
        let peer = &mut self.peers[index];
        let count = match peer.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let whole = (peer.partial + count) / self.echo_bytes;
        peer.partial = (peer.partial + count) % self.echo_bytes;
        peer.waiting = peer.waiting.saturating_sub(whole);
        self.report.messages += whole as u64;
        self.report.messages_in_all += whole as u64;
        if peer.waiting == 0 {
            let round_us = peer.since.elapsed().as_micros();
            self.report
                .rounds_us
                .push(u32::try_from(round_us).unwrap_or(u32::MAX));
            peer.since = Instant::now();
            peer.waiting = self.depth;
            send(&mut peer.stream, &self.burst)?;
        }
        Ok(())
    }
}

impl Report {
    /// Echoes a second.
    #[must_use]
    pub fn messages_s(&self) -> f64 {
        self.messages as f64 / self.duration.as_secs_f64()
    }

    /// The round that `share` of all were not longer than; 0 of none.
    #[must_use]
    pub fn round_us(&self, share: f64) -> u32 {
        let last = self.rounds_us.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.rounds_us.get(at).copied().unwrap_or(0)
    }
}

/// All of it; a server that does not read gets some time.
fn send(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    let start = Instant::now();
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if start.elapsed() > ANSWER_WITHIN {
                    return Err(ErrorKind::TimedOut.into());
                }
                std::thread::yield_now();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
