//! The load generator of the edge's UDP benchmark: one thread, many sockets, `depth` datagrams under way on
//! each; when all have come back the next go out. Datagrams that are lost are sent again.
//!
//! `udp_load ADDRESS SOCKETS DEPTH BYTES SECONDS` prints one JSON object.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use zmqgame_reactor::reactor::{Interest, Reactor, Token};
use zmqgame_reactor::sys::{
    DATAGRAMS_A_CALL, MOST_DATAGRAM_BYTES, Receiver, Sender, join_received,
};

/// Not measured: addresses become known, caches fill.
const WARM_UP: Duration = Duration::from_millis(300);
/// A round that has not come back by now has lost something.
const LOST_AFTER: Duration = Duration::from_millis(50);

struct Peer {
    socket: UdpSocket,
    /// Datagrams of this round that are still to come.
    waiting: usize,
    since: Instant,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, sockets, depth, bytes, seconds] = arguments.as_slice() else {
        return Err("usage: udp_load ADDRESS SOCKETS DEPTH BYTES SECONDS".into());
    };
    let mut load = Load {
        reactor: Reactor::new()?,
        server: address.parse()?,
        peers: Vec::new(),
        receiver: Receiver::new(MOST_DATAGRAM_BYTES),
        sender: Sender::new(1 << 20),
        datagram: vec![b'x'; bytes.parse()?],
        buffer: vec![0; MOST_DATAGRAM_BYTES],
        depth: depth.parse()?,
        echoes: 0,
        lost: 0,
    };
    load.connect(sockets.parse()?)?;
    let duration = Duration::from_secs_f64(seconds.parse()?);
    load.run(WARM_UP)?;
    (load.echoes, load.lost) = (0, 0);
    let start = Instant::now();
    load.run(duration)?;
    let rate = load.echoes as f64 / start.elapsed().as_secs_f64();
    let (messages, lost) = (load.echoes, load.lost);
    println!("{{\"messages_s\":{rate:.0},\"messages\":{messages},\"lost\":{lost}}}");
    Ok(())
}

struct Load {
    reactor: Reactor,
    server: SocketAddr,
    peers: Vec<Peer>,
    receiver: Receiver,
    sender: Sender,
    datagram: Vec<u8>,
    buffer: Vec<u8>,
    depth: usize,
    echoes: u64,
    lost: u64,
}

impl Load {
    fn connect(&mut self, sockets: usize) -> Result<(), Box<dyn Error>> {
        for index in 0..sockets {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(self.server)?;
            socket.set_nonblocking(true)?;
            join_received(socket.as_fd());
            self.reactor
                .register(&socket, Token(index as u64), Interest::READ)?;
            self.peers.push(Peer {
                socket,
                waiting: 0,
                since: Instant::now(),
            });
            self.send(index);
        }
        Ok(())
    }

    fn send(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if self.depth == 1 {
            // One that does not go out counts as lost, and goes out again.
            let _ = peer.socket.send(&self.datagram);
        } else {
            for _ in 0..self.depth {
                self.sender.push(self.server, &self.datagram);
            }
            self.sender.send(peer.socket.as_fd());
        }
        (peer.waiting, peer.since) = (self.depth, Instant::now());
    }

    fn run(&mut self, duration: Duration) -> Result<(), Box<dyn Error>> {
        let (start, mut ready, mut checked) = (Instant::now(), Vec::new(), Instant::now());
        while start.elapsed() < duration {
            self.reactor.wait(&mut ready, Some(20))?;
            for event in &ready {
                self.receive(event.token.0 as usize);
            }
            if checked.elapsed() > LOST_AFTER {
                checked = Instant::now();
                self.send_again();
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if self.depth == 1 {
            // Cheaper than a batch, so that this side's core does not set the figures.
            let came = peer.socket.recv(&mut self.buffer).is_ok();
            self.echoes += u64::from(came);
            if came {
                self.send(index);
            }
            return;
        }
        while let Ok(count) = self.receiver.receive(peer.socket.as_fd()) {
            let mut came = 0;
            for slot in 0..count {
                if let Some(datagrams) = self.receiver.datagrams(slot) {
                    came += datagrams.bytes.len().div_ceil(datagrams.each);
                }
            }
            self.echoes += came as u64;
            peer.waiting = peer.waiting.saturating_sub(came);
            if count < DATAGRAMS_A_CALL {
                break;
            }
        }
        if peer.waiting == 0 {
            self.send(index);
        }
    }

    fn send_again(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            if peer.since.elapsed() > LOST_AFTER {
                self.lost += peer.waiting as u64;
                self.send(index);
            }
        }
    }
}
