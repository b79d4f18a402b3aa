//! The load for datagrams: many sockets, each connected; what is lost is sent again.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{FIRST_LOOK, FIRST_WITHIN, MOST_CONNECTIONS, MOST_DEPTH, Report, wrong};
use crate::reactor::{Interest, Reactor, Token};
use crate::sys::{DATAGRAMS_A_CALL, MOST_DATAGRAM_BYTES, Receiver, Sender, join_received};

/// A round that has not come back by now has lost something.
const LOST_AFTER: Duration = Duration::from_millis(50);
/// Datagrams that wait to be sent by one socket.
const WAITING_BYTES: usize = 1 << 20;
/// The longest payload of a datagram on IPv4.
const MOST_BYTES: usize = 65_507;

struct Peer {
    socket: UdpSocket,
    /// Datagrams of this round that are still to come.
    waiting: usize,
    since: Instant,
}

/// Sockets that are open.
pub struct UdpLoad {
    reactor: Reactor,
    server: SocketAddr,
    peers: Vec<Peer>,
    receiver: Receiver,
    sender: Sender,
    datagram: Vec<u8>,
    buffer: Vec<u8>,
    depth: usize,
    report: Report,
}

impl UdpLoad {
    /// Opens the sockets.
    ///
    /// # Errors
    /// A number is out of its range, or a socket could not be opened.
    pub fn connect(address: &str, sockets: usize, depth: usize, bytes: usize) -> io::Result<Self> {
        let fits = (1..=MOST_CONNECTIONS).contains(&sockets)
            && (1..=MOST_DEPTH).contains(&depth)
            && (1..=MOST_BYTES).contains(&bytes);
        if !fits {
            return Err(wrong(
                "sockets must be 1 to 100,000, depth 1 to 1,024, message bytes 1 to 65,507",
            ));
        }
        let server = address
            .parse()
            .map_err(|_| wrong("the address must be host:port"))?;
        let mut load = Self {
            reactor: Reactor::new()?,
            server,
            peers: Vec::with_capacity(sockets),
            receiver: Receiver::new(MOST_DATAGRAM_BYTES),
            sender: Sender::new(WAITING_BYTES),
            datagram: vec![b'x'; bytes],
            buffer: vec![0; MOST_DATAGRAM_BYTES],
            depth,
            report: Report::default(),
        };
        for index in 0..sockets {
            load.open(index)?;
        }
        Ok(load)
    }

    fn open(&mut self, index: usize) -> io::Result<()> {
        let any = if self.server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
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
        Ok(())
    }

    /// Sends and measures; what happens in `warm_up` counts only in all.
    ///
    /// # Errors
    /// Nothing at all came back.
    pub fn run(mut self, warm_up: Duration, duration: Duration) -> io::Result<Report> {
        for index in 0..self.peers.len() {
            self.send(index);
        }
        self.turn(warm_up)?;
        (self.report.messages, self.report.lost) = (0, 0);
        self.report.rounds_us.clear();
        let start = Instant::now();
        self.turn(duration)?;
        while self.report.rounds_us.is_empty() && start.elapsed() < duration + FIRST_WITHIN {
            self.turn(FIRST_LOOK)?;
        }
        self.report.duration = start.elapsed();
        self.report.rounds_us.sort_unstable();
        if self.report.messages_in_all == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(self.report)
    }

    fn turn(&mut self, duration: Duration) -> io::Result<()> {
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

    fn receive(&mut self, index: usize) {
        let came = if self.depth == 1 {
            // Cheaper than a batch, so that this side's core does not set the figures.
            let socket = &self.peers[index].socket;
            usize::from(socket.recv(&mut self.buffer).is_ok())
        } else {
            self.receive_batch(index)
        };
        self.report.messages += came as u64;
        self.report.messages_in_all += came as u64;
        let peer = &mut self.peers[index];
        if came == 0 || peer.waiting == 0 {
            return; // of a round that was given up
        }
        peer.waiting = peer.waiting.saturating_sub(came);
        if peer.waiting == 0 {
            let round_us = peer.since.elapsed().as_micros();
            let round_us = u32::try_from(round_us).unwrap_or(u32::MAX);
            self.report.rounds_us.push(round_us);
            self.send(index);
        }
    }

    fn receive_batch(&mut self, index: usize) -> usize {
        let (socket, mut came) = (self.peers[index].socket.as_fd(), 0);
        while let Ok(count) = self.receiver.receive(socket) {
            for slot in 0..count {
                if let Some(datagrams) = self.receiver.datagrams(slot) {
                    came += datagrams.bytes.len().div_ceil(datagrams.each);
                }
            }
            if count < DATAGRAMS_A_CALL {
                break;
            }
        }
        came
    }

    fn send_again(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            if peer.since.elapsed() > LOST_AFTER {
                self.report.lost += peer.waiting as u64;
                self.send(index);
            }
        }
    }
}
