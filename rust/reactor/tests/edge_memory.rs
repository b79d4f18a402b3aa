//! What the edge says that its connections hold, beside what the allocator says. Alone in its process: the
//! allocator counts what all threads take but the test's own.

#[path = "edge_matrix/clients.rs"]
#[allow(dead_code)]
mod clients;
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicIsize, Ordering};

use rustls::{ClientConnection, StreamOwned};
use zmqgame_core::stream::packet::Batch;
use zmqgame_reactor::edge::config::{EdgeConfig, Framing, ListenOptions};
use zmqgame_reactor::edge::{Edge, Handler, Out};

use clients::{Folder, Transport, listen, tcp, tls};
use common::{counter, until};

struct Counting;

static TAKEN: AtomicIsize = AtomicIsize::new(0);
thread_local! {
    /// Whether what this thread takes is the client's.
    static CLIENT: Cell<bool> = const { Cell::new(false) };
}

fn count(bytes: isize) {
    if !CLIENT.get() {
        TAKEN.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: all is left to the system's allocator; what is added is a number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Looks at nothing, so that no batch leaves its loop.
struct Deaf;

impl Handler for Deaf {
    fn handle(&mut self, _batch: &Batch, _out: &mut Out<'_>) {}
}

const CONNECTIONS: usize = 40;

enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// Below TLS.
    fn bare(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).unwrap(),
            Self::Tls(stream) => {
                stream.write_all(bytes).unwrap();
                stream.flush().unwrap();
            }
        }
    }
}

/// An empty packet.
fn hello() -> Vec<u8> {
    [&12_u32.to_le_bytes()[..], &[1], &[0; 11]].concat()
}

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// The head of a frame and `there` bytes of its payload.
fn frame(first: u8, payload: u16, there: usize) -> Vec<u8> {
    let [high, low] = payload.to_be_bytes();
    let mut bytes = vec![first, 0x80 | 126, high, low, 0, 0, 0, 0];
    // A packet of kind 1.
    bytes.push(1);
    bytes.resize(8 + there, 0);
    bytes
}

/// The head of a TLS record and `there` bytes of it.
fn record(kind: u8, length: u16, there: usize) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let mut bytes = vec![kind, 3, 3, high, low];
    bytes.resize(5 + there, 0);
    bytes
}

struct Measured {
    edge: Edge,
    plain: String,
    secret: String,
    authorities: PathBuf,
}

impl Measured {
    fn new(folder: &Folder) -> Self {
        let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(Deaf))).unwrap();
        let secret = listen(&edge, Transport::Tls, Framing::Packets, folder);
        let options = ListenOptions::from(Framing::Packets);
        let plain = edge.listen_tcp("127.0.0.1:0", options).unwrap();
        Self {
            edge,
            plain,
            secret: secret.address,
            authorities: secret.authorities,
        }
    }

    fn dial(&self, transport: Transport) -> Socket {
        if transport == Transport::Tcp {
            return Socket::Plain(tcp(&self.plain));
        }
        Socket::Tls(Box::new(tls(&self.secret, &self.authorities).unwrap()))
    }

    /// Waits until one connection that has sent this holds at least so much, and what it is said to hold is
    /// what the allocator says.
    fn hold(&self, case: &Case<'_>) {
        let &(what, transport, send, bare, packets, least) = case;
        until("those before are gone", || self.edge.connections() == 0);
        assert_eq!(self.edge.memory_bytes(), 0);
        let before = TAKEN.load(Ordering::Relaxed);
        let mut sockets: Vec<_> = (0..CONNECTIONS).map(|_| self.dial(transport)).collect();
        for socket in &mut sockets {
            let packets = counter(&self.edge, "packets_in") + packets;
            send.iter().for_each(|bytes| socket.send(bytes));
            socket.bare().write_all(bare).unwrap();
            // One after the other, so that the loop's batch, which is not a connection's, stays small.
            until("its packets are there", || {
                counter(&self.edge, "packets_in") == packets
            });
        }
        let last = Cell::new((0, 0));
        until(what, || {
            let all = CONNECTIONS as isize;
            let taken = (TAKEN.load(Ordering::Relaxed) - before) / all;
            let said = self.edge.memory_bytes() as isize / all;
            if last.replace((said, taken)) != (said, taken) {
                eprintln!("{what}: {said} said, {taken} taken");
            }
            let close = said >= taken * 4 / 5 && said <= taken * 2 + 1_024;
            self.edge.connections() == CONNECTIONS && said >= least && close
        });
    }
}

/// What is sent, what below TLS, how many packets that gives, and what it holds at least.
type Case<'a> = (&'a str, Transport, &'a [&'a [u8]], &'a [u8], u64, isize);

#[test]
fn what_connections_are_said_to_hold_is_what_they_hold() {
    CLIENT.set(true);
    let folder = Folder::new("held");
    let measured = Measured::new(&folder);
    let half_packet = [&40_000_u32.to_le_bytes()[..], &[0; 30_000]].concat();
    let half_frame = frame(0x82, 60_000, 50_000);
    let whole_frame = frame(0x82, 60_000, 60_000);
    let pieces = [frame(0x02, 15_000, 15_000), frame(0, 15_000, 15_000)].concat();
    // A handshake message without an end: its head says 60,000 bytes.
    let mut endless = record(22, 16_000, 16_000);
    endless[5..9].copy_from_slice(&[1, 0, 0xea, 0x60]);
    let endless = [endless.clone(), record(22, 16_000, 16_000)].concat();
    let (tcp, tls) = (Transport::Tcp, Transport::Tls);
    let (hello, bare) = (hello(), record(23, 16_000, 15_000));
    let all: [Case<'_>; 11] = [
        ("warm-up", tls, &[REQUEST, &whole_frame], &[], 1, 0),
        ("idle", tcp, &[&hello], &[], 1, 0),
        (
            "half a packet",
            tcp,
            &[&hello, &half_packet],
            &[],
            1,
            30_000,
        ),
        ("idle WebSocket", tcp, &[REQUEST], &[], 0, 2_000),
        (
            "half a message",
            tcp,
            &[REQUEST, &half_frame],
            &[],
            0,
            50_000,
        ),
        ("a message", tcp, &[REQUEST, &whole_frame], &[], 1, 2_000),
        ("fragments", tcp, &[REQUEST, &pieces], &[], 0, 30_000),
        ("idle TLS", tls, &[&hello], &[], 1, 4_000),
        ("half a record", tls, &[&hello], &bare, 1, 15_000),
        ("half, wss", tls, &[REQUEST, &half_frame], &[], 0, 50_000),
        ("fragments, wss", tls, &[REQUEST, &pieces], &[], 0, 30_000),
    ];
    all.iter().for_each(|case| measured.hold(case));
    // What a message needed is given back after a quiet time, also by tungstenite and rustls.
    for (transport, most) in [(tcp, 4_500), (tls, 14_500)] {
        until("those before are gone", || measured.edge.connections() == 0);
        let mut socket = measured.dial(transport);
        let before = counter(&measured.edge, "packets_in");
        socket.send(&[REQUEST, &whole_frame].concat());
        until("it came", || counter(&measured.edge, "packets_in") > before);
        assert!(measured.edge.memory_bytes() > 60_000);
        until("it shrinks", || measured.edge.memory_bytes() < most);
        // And works as before.
        socket.send(&whole_frame);
        until("the next came", || {
            counter(&measured.edge, "packets_in") > before + 1
        });
    }
    // Before its handshake is done.
    until("all are gone", || measured.edge.connections() == 0);
    let before = TAKEN.load(Ordering::Relaxed);
    let mut sockets: Vec<_> = (0..CONNECTIONS)
        .map(|_| clients::tcp(&measured.secret))
        .collect();
    sockets
        .iter_mut()
        .for_each(|socket| socket.write_all(&endless).unwrap());
    let all = CONNECTIONS as isize;
    until("pieces of a handshake count", || {
        let said = measured.edge.memory_bytes() as isize / all;
        let taken = (TAKEN.load(Ordering::Relaxed) - before) / all;
        taken > 32_000 && said >= taken * 4 / 5
    });
}
