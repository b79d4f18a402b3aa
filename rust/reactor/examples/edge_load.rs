//! The load generator of the edge's benchmark: one thread, many connections, `depth` messages under way
//! on each; every echo is answered by the next message.
//!
//! `edge_load ADDRESS CONNECTIONS DEPTH raw|framed SECONDS` prints one JSON object.

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
        return Err("usage: edge_load ADDRESS CONNECTIONS DEPTH raw|framed SECONDS".into());
    };
    let mut message = Vec::new();
    if framing == "framed" {
        let payload = [b'x'; MESSAGE_BYTES - 12];
        write_packet(
            &mut message,
            Header {
                kind: 1,
                sequence: 7,
            },
            &payload,
        );
    } else {
        message.resize(MESSAGE_BYTES, b'x');
    }
    let mut load = Load {
        reactor: Reactor::new()?,
        peers: Vec::new(),
        message_bytes: message.len(),
        burst: message.repeat(depth.parse()?),
        depth: depth.parse()?,
        echoes: 0,
        rounds_us: Vec::new(),
    };
    load.connect(address, connections.parse()?)?;
    let duration = Duration::from_secs_f64(seconds.parse()?);
    load.run(WARM_UP)?;
    (load.echoes, load.rounds_us) = (0, Vec::new());
    let start = Instant::now();
    load.run(duration)?;
    load.report(start.elapsed());
    Ok(())
}

struct Load {
    reactor: Reactor,
    peers: Vec<Peer>,
    message_bytes: usize,
    burst: Vec<u8>,
    depth: usize,
    echoes: u64,
    rounds_us: Vec<u64>,
}

impl Load {
    fn connect(&mut self, address: &str, connections: usize) -> Result<(), Box<dyn Error>> {
        for index in 0..connections {
            let mut stream = connect_tcp(address)?;
            self.reactor
                .register(&stream, Token(index as u64), Interest::READ)?;
            stream.write_all(&self.burst)?;
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
        let whole = (peer.partial + count) / self.message_bytes;
        peer.partial = (peer.partial + count) % self.message_bytes;
        peer.waiting -= whole;
        self.echoes += whole as u64;
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
            "{{\"messages_s\":{rate:.0},\"p50_us\":{},\"p99_us\":{}}}",
            at(50),
            at(99)
        );
    }
}
