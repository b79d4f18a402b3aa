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
    let (connections, depth): (usize, usize) = (connections.parse()?, depth.parse()?);
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let mut message = Vec::new();
    if framing == "framed" {
        write_packet(
            &mut message,
            Header {
                kind: 1,
                sequence: 7,
            },
            &[b'x'; MESSAGE_BYTES - 12],
        );
    } else {
        message.resize(MESSAGE_BYTES, b'x');
    }
    let burst = message.repeat(depth);
    let mut reactor = Reactor::new()?;
    let mut peers = Vec::with_capacity(connections);
    for index in 0..connections {
        let mut stream = connect_tcp(address)?;
        reactor.register(&stream, Token(index as u64), Interest::READ)?;
        stream.write_all(&burst)?;
        peers.push(Peer {
            stream,
            partial: 0,
            since: Instant::now(),
            waiting: depth,
        });
    }
    let mut rounds_us = Vec::new();
    let (start, mut ready, mut buffer) = (Instant::now(), Vec::new(), vec![0; 65_536]);
    let mut echoes = 0_u64;
    while start.elapsed() < WARM_UP + duration {
        reactor.wait(&mut ready, Some(100))?;
        let measured = start.elapsed() >= WARM_UP;
        for event in &ready {
            let peer = &mut peers[event.token.0 as usize];
            let count = match peer.stream.read(&mut buffer) {
                Ok(0) => return Err("the server has closed a connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let whole = (peer.partial + count) / message.len();
            peer.partial = (peer.partial + count) % message.len();
            peer.waiting -= whole;
            echoes += if measured { whole as u64 } else { 0 };
            if peer.waiting == 0 {
                if measured {
                    rounds_us.push(peer.since.elapsed().as_micros() as u64);
                }
                peer.since = Instant::now();
                peer.waiting = depth;
                peer.stream.write_all(&burst)?;
            }
        }
    }
    rounds_us.sort_unstable();
    let at = |share: usize| {
        rounds_us
            .get(rounds_us.len() * share / 100)
            .copied()
            .unwrap_or(0)
    };
    let rate = echoes as f64 / (start.elapsed() - WARM_UP).as_secs_f64();
    println!(
        "{{\"messages_s\":{rate:.0},\"p50_us\":{},\"p99_us\":{}}}",
        at(50),
        at(99)
    );
    Ok(())
}
