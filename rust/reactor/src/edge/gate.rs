//! The thread that takes connections in: accept, PROXY header, TLS handshake; then a loop gets them.
//!
//! So a storm of new connections or handshakes, well meant or not, costs the loops nothing but their share
//! of the processor: who is connected already is served as before. What is pending here has `handshake_ms`
//! in all, counts as a connection and for its memory.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::net::RecvFlags;
use zmqgame_core::edge::proxy::{self, ProxyHeader, Source};
use zmqgame_core::stream::ring::RingBuffer;

use super::admission::Admission;
use super::balance;
use super::command::{Command, Commands};
use super::config::{ACCEPTS_A_ROUND, Framing, ListenOptions};
use super::connection::CONNECTION_BYTES;
use super::counters::Counters;
use super::line::{Got, Line};
use super::reason::CloseReason;
use super::shared::Shared;
use super::tls::{TLS_BYTES, TlsServer};
use crate::listener::{Accepted, Listener, PAUSE_MS, Peer};
use crate::reactor::{Interest, Reactor, Ready, Token};
use crate::stream::Stream;

/// Handshakes that one round goes on with, before new connections get their turn again.
const HANDSHAKES_A_ROUND: usize = 32;
/// Reads of one handshake in a turn: a client's whole part fits in one.
const READS_A_TURN: usize = 4;
/// How much the gate's thread stands back: who is connected comes first when processors are short. It still
/// gets a tenth beside a loop that is never idle.
const NICE: i32 = 10;
/// Tokens from here on are listeners: below are slots and their generations.
const FIRST_PORT_TOKEN: u64 = 1 << 63;
const WAKE: Token = Token(u64::MAX);

/// A listener and what its connections get.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) listener: Listener,
    pub(super) options: ListenOptions,
    pub(super) tls: Option<Arc<TlsServer>>,
}

/// A connection on its way to a loop: taken in by the gate, or going out.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) line: Line,
    pub(super) peer: Peer,
    pub(super) framing: Framing,
    pub(super) admission: Admission,
    /// When it came.
    pub(super) since_ms: u64,
}

/// A connection before it is one.
struct Pending {
    incoming: Incoming,
    /// Its client is not known before the PROXY header is read.
    proxied: bool,
    tls: Option<Arc<TlsServer>>,
    queued: bool,
    ended: bool,
}

/// The thread's state.
pub(super) struct Gate {
    shared: Arc<Shared>,
    reactor: Reactor,
    ports: Vec<Port>,
    pending: Vec<Option<Box<Pending>>>,
    /// Of each slot, so that old events find nobody.
    generations: Vec<u32>,
    free: Vec<usize>,
    to_go_on: VecDeque<u64>,
    plain: Vec<u8>,
    cipher: Vec<u8>,
    commands: Commands,
}

fn slot_of(token: u64) -> usize {
    (token & u64::from(u32::MAX)) as usize
}

impl Gate {
    pub(super) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let reactor = Reactor::with_clock(shared.start)?;
        reactor.register(shared.gate.wake(), WAKE, Interest::READ)?;
        Ok(Self {
            shared,
            reactor,
            ports: Vec::new(),
            pending: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            to_go_on: VecDeque::new(),
            plain: Vec::new(),
            cipher: Vec::new(),
            commands: Commands::default(),
        })
    }

    /// Runs until it is told to stop; what is pending is dropped then.
    pub(super) fn run(mut self) -> io::Result<()> {
        // It concerns this thread alone, and may always be asked for; without it all works as well.
        let _ = rustix::process::nice(NICE);
        let mut ready = Vec::new();
        loop {
            let at_once = !self.to_go_on.is_empty();
            self.reactor.wait(&mut ready, at_once.then_some(0))?;
            for event in &ready {
                self.handle_ready(*event);
            }
            for _ in 0..self.to_go_on.len().min(HANDSHAKES_A_ROUND) {
                if let Some(token) = self.to_go_on.pop_front() {
                    self.go_on(token);
                }
            }
            if self.run_commands() {
                return Ok(());
            }
        }
    }

    fn handle_ready(&mut self, event: Ready) {
        if event.token == WAKE {
            self.shared.gate.wake().drain();
        } else if event.token.0 >= FIRST_PORT_TOKEN {
            self.handle_port((event.token.0 - FIRST_PORT_TOKEN) as usize, event.timer);
        } else if event.timer {
            if let Some(pending) = self.take(event.token.0) {
                let handshake_ms = self.shared.config.handshake_ms;
                self.refuse(*pending, &CloseReason::Handshake { handshake_ms });
            }
        } else if let Some(pending) = self.find(event.token.0) {
            pending.ended |= event.ended;
            if !pending.queued {
                pending.queued = true;
                self.to_go_on.push_back(event.token.0);
            }
        }
    }

    /// Gives true when it is over.
    fn run_commands(&mut self) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        self.shared.gate.take(&mut commands);
        for command in commands.list.drain(..) {
            match command {
                Command::Listen(port, answer) => {
                    let _ = answer.send(self.listen(*port));
                }
                Command::Stop { .. } => return true,
                // The rest is for loops.
                _ => {}
            }
        }
        self.commands = commands;
        false
    }

    /// It can only fail when the kernel is out of memory; the listener is closed then.
    fn listen(&mut self, port: Port) -> io::Result<()> {
        let token = Token(FIRST_PORT_TOKEN + self.ports.len() as u64);
        self.reactor
            .register(&port.listener, token, Interest::READ)?;
        self.ports.push(port);
        Ok(())
    }

    fn handle_port(&mut self, index: usize, timer: bool) {
        let Some(port) = self.ports.get(index) else {
            return;
        };
        let token = Token(FIRST_PORT_TOKEN + index as u64);
        if timer {
            let _ = self.reactor.modify(&port.listener, token, Interest::READ);
            return;
        }
        for _ in 0..ACCEPTS_A_ROUND {
            // A raw connection is told to the consumer at once, so a full inbox takes no more in.
            let accepted = if self.shared.inbox.is_full() {
                Accepted::Pause(io::ErrorKind::WouldBlock.into())
            } else {
                self.ports[index].listener.accept()
            };
            let counters = &self.shared.counters;
            match accepted {
                Accepted::Stream(stream, peer) => self.admit(index, stream, peer),
                Accepted::Empty => return,
                Accepted::Refused => Counters::add(&counters.refused_descriptors, 1),
                Accepted::Pause(_) => {
                    Counters::add(&counters.accept_pauses, 1);
                    let listener = &self.ports[index].listener;
                    let _ = self.reactor.modify(listener, token, Interest::NONE);
                    self.reactor
                        .set_timer(token, self.reactor.now_ms() + PAUSE_MS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, index: usize, stream: Stream, peer: Peer) {
        let port = &self.ports[index];
        if let Err(reason) = port.options.proxy_protocol.check(&peer) {
            reason.count(&self.shared.counters);
            return;
        }
        let Some(mut admission) = Admission::new(&self.shared) else {
            return;
        };
        let bytes = CONNECTION_BYTES + if port.tls.is_some() { TLS_BYTES } else { 0 };
        if !admission.count_memory(bytes) {
            Counters::add(&self.shared.counters.refused_memory, 1);
            return;
        }
        let proxied = port.options.proxy_protocol.are_expected();
        if !proxied && !admission.count_client(balance::client_of(&peer)) {
            return;
        }
        let (framing, tls) = (port.options.framing.clone(), port.tls.clone());
        let incoming = Incoming {
            line: Line::new(stream, None),
            peer,
            framing,
            admission,
            since_ms: self.reactor.now_ms(),
        };
        if proxied || tls.is_some() {
            self.wait_for(Pending {
                incoming,
                proxied,
                tls,
                queued: true,
                ended: false,
            });
        } else {
            self.place(incoming);
        }
    }

    fn wait_for(&mut self, mut pending: Pending) {
        if !pending.proxied && self.start_tls(&mut pending).is_err() {
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.generations.push(0);
            self.pending.len() - 1
        });
        let generation = self.generations[slot];
        // 31 bits: tokens of listeners have the highest bit.
        let token = u64::from(generation & (u32::MAX >> 1)) << 32 | slot as u64;
        let watched =
            self.reactor
                .register(pending.incoming.line.as_fd(), Token(token), Interest::EDGE);
        if watched.is_err() {
            self.free.push(slot);
            return;
        }
        let handshake_ms = self.shared.config.handshake_ms;
        if handshake_ms > 0 {
            let until_ms = pending.incoming.since_ms + handshake_ms;
            self.reactor.set_timer(Token(token), until_ms);
        }
        self.pending[slot] = Some(Box::new(pending));
        self.to_go_on.push_back(token);
    }

    fn start_tls(&self, pending: &mut Pending) -> Result<(), CloseReason> {
        if let Some(server) = &pending.tls {
            pending.incoming.line.start_tls(Box::new(server.accept()?));
        }
        Ok(())
    }

    fn find(&mut self, token: u64) -> Option<&mut Pending> {
        let slot = slot_of(token);
        let generation = self.generations.get(slot)? & (u32::MAX >> 1);
        if u64::from(generation) != token >> 32 {
            return None;
        }
        self.pending.get_mut(slot)?.as_deref_mut()
    }

    /// Takes one out for good.
    fn take(&mut self, token: u64) -> Option<Box<Pending>> {
        self.find(token)?;
        let slot = slot_of(token);
        let pending = self.pending[slot].take()?;
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        self.free.push(slot);
        self.reactor.cancel_timer(Token(token));
        Some(pending)
    }

    /// One turn of a handshake.
    fn go_on(&mut self, token: u64) {
        let slot = slot_of(token);
        if self.find(token).is_none() {
            return;
        }
        let Some(mut pending) = self.pending[slot].take() else {
            return;
        };
        pending.queued = false;
        let done = self.advance(&mut pending);
        self.pending[slot] = Some(pending);
        match done {
            Ok(false) => {}
            Ok(true) => {
                if let Some(pending) = self.take(token) {
                    // The loop watches it from now on.
                    let _ = self.reactor.deregister(pending.incoming.line.as_fd());
                    self.place(pending.incoming);
                }
            }
            Err(reason) => {
                if let Some(pending) = self.take(token) {
                    self.refuse(*pending, &reason);
                }
            }
        }
    }

    /// Gives whether it can go to a loop.
    fn advance(&mut self, pending: &mut Pending) -> Result<bool, CloseReason> {
        if pending.proxied {
            let Some(header) = self.read_proxy_header(pending)? else {
                return Ok(false);
            };
            match header.source {
                Source::Own => {}
                Source::Ip(address) => pending.incoming.peer = Peer::Ip(address),
                Source::Unix => pending.incoming.peer = Peer::ProxiedUnix,
            }
            let client = balance::client_of(&pending.incoming.peer);
            if !pending.incoming.admission.count_client(client) {
                let limit = self.shared.config.max_connections_per_address;
                return Err(CloseReason::Address { limit });
            }
            pending.proxied = false;
            self.start_tls(pending)?;
        }
        let line = &mut pending.incoming.line;
        let counters = &self.shared.counters;
        for _ in 0..READS_A_TURN {
            // What a handshake makes TLS hold counts while it is made.
            let held = CONNECTION_BYTES + line.memory();
            if !pending.incoming.admission.count_memory(held) {
                let limit_bytes = self.shared.config.max_memory_bytes;
                return Err(CloseReason::Memory { limit_bytes });
            }
            if !line.is_handshaking() {
                break;
            }
            self.plain.clear();
            let got = line.read(&mut self.plain, &mut self.cipher, counters);
            line.put_back(&self.plain);
            line.flush(&mut RingBuffer::new(0), counters)?;
            if let Got::Bytes { more: false, .. } | Got::Empty = got? {
                break;
            }
        }
        let line = &pending.incoming.line;
        if line.is_handshaking() {
            return Ok(false);
        }
        if line.tls().is_some() {
            Counters::add(&counters.tls_handshakes, 1);
        }
        Ok(true)
    }

    /// Looks at what is there and takes the header out once it is whole, and nothing that comes after it.
    fn read_proxy_header(&self, pending: &Pending) -> Result<Option<ProxyHeader>, CloseReason> {
        let socket = pending.incoming.line.as_fd();
        let mut bytes = [0; proxy::LONGEST_BYTES];
        let count = match rustix::net::recv(socket, &mut bytes[..], RecvFlags::PEEK) {
            Ok((_, 0)) => return Err(CloseReason::Peer),
            Ok((_, count)) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(CloseReason::Broken(error.kind())),
        };
        let Some(header) = proxy::parse(&bytes[..count]).map_err(CloseReason::Proxy)? else {
            return if pending.ended {
                Err(CloseReason::Peer)
            } else {
                Ok(None)
            };
        };
        // They are there: this takes all of them.
        rustix::net::recv(socket, &mut bytes[..header.bytes], RecvFlags::empty())
            .map_err(|error| CloseReason::Broken(error.kind()))?;
        Ok(Some(header))
    }

    /// Nobody was told of it, so nobody has to be told why it goes; the counters are.
    fn refuse(&self, mut pending: Pending, reason: &CloseReason) {
        reason.count(&self.shared.counters);
        // TLS says why in an alert, if there is room for it.
        let line = &mut pending.incoming.line;
        let _ = line.flush(&mut RingBuffer::new(0), &self.shared.counters);
    }

    fn place(&self, mut incoming: Incoming) {
        let shared = &self.shared;
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        let live_of = |index: &usize| shared.loops[*index].live.load(Ordering::Relaxed);
        let mut all: Vec<usize> = Vec::new();
        let to = if shared.died().is_none() {
            let live = shared
                .loops
                .iter()
                .map(|end| end.live.load(Ordering::Relaxed));
            balance::choose(shared.config.balance, turn, &incoming.peer, live)
        } else {
            // Loops that have died get none; when none is left, nobody is served.
            all.extend((0..shared.loops.len()).filter(|&index| !shared.has_ended(index)));
            if all.is_empty() {
                return;
            }
            let live = all.iter().map(live_of);
            all[balance::choose(shared.config.balance, turn, &incoming.peer, live)]
        };
        incoming.admission.count_loop(to);
        let command = Command::Adopt(Box::new(incoming));
        // It has just died: the connection is closed with the others of it.
        let _ = shared.loops[to].queue.push(command);
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{EdgeConfig, Framing};
    use super::*;

    #[test]
    fn who_listens_is_told_when_it_fails() {
        let shared = Arc::new(Shared::new(EdgeConfig::default()).unwrap());
        let mut gate = Gate::new(Arc::clone(&shared)).unwrap();
        let listener = Listener::bind_tcp("127.0.0.1:0", false).unwrap();
        // What is watched already can't be watched again.
        gate.reactor
            .register(&listener, Token(0), Interest::READ)
            .unwrap();
        let port = Port {
            listener,
            options: ListenOptions::from(Framing::Raw),
            tls: None,
        };
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let command = Command::Listen(Box::new(port), answer);
        assert!(shared.gate.push(command).is_ok());
        assert!(!gate.run_commands());
        let error = answered.recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(gate.ports.is_empty());
    }
}
