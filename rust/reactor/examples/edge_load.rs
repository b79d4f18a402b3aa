//! The load generator of the edge's benchmark: one thread, many connections, `depth` messages under way
//! on each; every echo is answered by the next message.
//!
//! `edge_load ADDRESS CONNECTIONS DEPTH raw|framed|websocket SECONDS` prints one JSON object.
//! With 0 seconds it only connects, says so with a line, and holds the connections until its input ends.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use zmqgame_core::stream::packet::{Header, write_packet};
use zmqgame_reactor::listener::connect_tcp;
use zmqgame_reactor::reactor::{Interest, Reactor, Token};
use zmqgame_reactor::stream::Stream;

/// Bytes of a raw message, and of a framed one after its length.
const MESSAGE_BYTES: usize = 64;
/// Not measured: connections settle, caches fill.
const WARM_UP: Duration = Duration::from_millis(300);

/// How long a server may take to answer the request for a WebSocket.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

struct Peer {
    stream: Stream,
    /// Bytes that came of the echo that is not whole.
    partial: usize,
    /// When the round that is under way began.
    since: Instant,
    /// Echoes of this round that are still to come.
    waiting: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, depth, framing, seconds] = arguments.as_slice() else {
        let usage = "usage: edge_load ADDRESS CONNECTIONS DEPTH raw|framed|websocket SECONDS";
        return Err(usage.into());
    };
    let (message, echo_bytes) = message_of(framing);
    let mut load = Load {
        reactor: Reactor::new()?,
        peers: Vec::new(),
        echo_bytes,
        websocket: framing == "websocket",
        burst: message.repeat(depth.parse()?),
        depth: depth.parse()?,
        echoes: 0,
        all: 0,
        rounds_us: Vec::new(),
    };
    let hold = seconds == "0";
    load.connect(address, connections.parse()?, hold)?;
    if hold {
        println!("connected");
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let duration = Duration::from_secs_f64(seconds.parse()?);
    load.run(WARM_UP)?;
    (load.echoes, load.rounds_us) = (0, Vec::new());
    let start = Instant::now();
    load.run(duration)?;
    load.report(start.elapsed());
    Ok(())
}

/// One message, and the bytes of its echo: a server's WebSocket frame has no mask.
fn message_of(framing: &str) -> (Vec<u8>, usize) {
    let header = Header {
        kind: 1,
        sequence: 7,
    };
    let payload = [b'x'; MESSAGE_BYTES - 12];
    let mut message = Vec::new();
    match framing {
        "framed" => write_packet(&mut message, header, &payload),
        "websocket" => {
            header.write(&mut message);
            message.extend(payload);
            let mask = [0x37, 0xfa, 0x21, 0x3d];
            let mut frame = vec![0x82, 0x80 | MESSAGE_BYTES as u8];
            frame.extend(mask);
            frame.extend(
                message
                    .iter()
                    .zip(mask.iter().cycle())
                    .map(|(byte, mask)| byte ^ mask),
            );
            return (frame, 2 + MESSAGE_BYTES);
        }
        _ => message.resize(MESSAGE_BYTES, b'x'),
    }
    let bytes = message.len();
    (message, bytes)
}

/// Asks for a WebSocket and waits for the answer's head; what a server sends before it is asked is lost.
fn upgrade(stream: &mut Stream, address: &str) -> Result<(), Box<dyn Error>> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer, start) = (Vec::new(), [0; 1024], Instant::now());
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) => return Err("the server has closed a connection".into()),
            Ok(count) => answer.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
        if start.elapsed() > ANSWER_WITHIN {
            return Err("no answer to the request for a WebSocket".into());
        }
    }
    Ok(())
}

struct Load {
    reactor: Reactor,
    peers: Vec<Peer>,
    echo_bytes: usize,
    websocket: bool,
    burst: Vec<u8>,
    depth: usize,
    echoes: u64,
    /// Echoes of the warm-up too.
    all: u64,
    rounds_us: Vec<u64>,
}

impl Load {
    fn connect(
        &mut self,
        address: &str,
        connections: usize,
        hold: bool,
    ) -> Result<(), Box<dyn Error>> {
        for index in 0..connections {
            let mut stream = connect_tcp(address)?;
            if self.websocket {
                upgrade(&mut stream, address)?;
            }
            self.reactor
                .register(&stream, Token(index as u64), Interest::READ)?;
            if !hold {
                stream.write_all(&self.burst)?;
            }
            let (since, waiting) = (Instant::now(), self.depth);
            self.peers.push(Peer {
                stream,
                partial: 0,
                since,
                waiting,
            });
        }
        Ok(())
    }

    fn run(&mut self, duration: Duration) -> Result<(), Box<dyn Error>> {
        let (start, mut ready, mut buffer) = (Instant::now(), Vec::new(), vec![0; 65_536]);
        while start.elapsed() < duration {
            self.reactor.wait(&mut ready, Some(100))?;
            for event in &ready {
                self.echo(event.token.0 as usize, &mut buffer)?;
            }
        }
        Ok(())
    }

    fn echo(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), Box<dyn Error>> {
        let peer = &mut self.peers[index];
        let count = match peer.stream.read(buffer) {
            Ok(0) => return Err("the server has closed a connection".into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let whole = (peer.partial + count) / self.echo_bytes;
        peer.partial = (peer.partial + count) % self.echo_bytes;
        peer.waiting -= whole;
        self.echoes += whole as u64;
        self.all += whole as u64;
        if peer.waiting == 0 {
            self.rounds_us.push(peer.since.elapsed().as_micros() as u64);
            peer.since = Instant::now();
            peer.waiting = self.depth;
            peer.stream.write_all(&self.burst)?;
        }
        Ok(())
    }

    fn report(&mut self, duration: Duration) {
        self.rounds_us.sort_unstable();
        let count = self.rounds_us.len();
        let at = |share: usize| {
            self.rounds_us
                .get(count * share / 100)
                .copied()
                .unwrap_or(0)
        };
        let rate = self.echoes as f64 / duration.as_secs_f64();
        println!(
            "{{\"messages_s\":{rate:.0},\"messages\":{},\"p50_us\":{},\"p99_us\":{}}}",
            self.all,
            at(50),
            at(99)
        );
    }
}
