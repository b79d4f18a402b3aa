//! One loop: a thread with its connections, its listeners and its round.
//!
//! A round: wait; take commands; accept; read every connection that has something (a bounded turn
//! each, into one batch); hand the batch on; write what waits. Connections are edge-triggered, so the
//! list `to_read` remembers who is not read to the end: a round that stops early, or an inbox that is
//! full, loses nobody.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zmqgame_core::stream::packet::{Batch, Header, KIND_CLOSE};

use super::Handler;
use super::command::{Command, Commands};
use super::config::{ACCEPTS_A_ROUND, Framing, LINGER_MS, ROUND_BYTES};
use super::connection::{Connection, Context};
use super::counters::Counters;
use super::reason::CloseReason;
use super::shared::Shared;
use super::table::Place;
use super::udp_loop::UdpPorts;
use crate::listener::{Accepted, Listener, PAUSE_MS};
use crate::reactor::{Interest, Reactor, Ready, Token};
use crate::stream::Stream;

/// Tokens from here on are not connections: ids stay below it.
const FIRST_OWN_TOKEN: u64 = 1 << 63;
/// The loop's UDP sockets.
pub(super) const FIRST_UDP_TOKEN: u64 = 3 << 62;
const WAKE: Token = Token(u64::MAX);

struct Port {
    listener: Listener,
    framing: Framing,
}

/// One loop, owned by its thread.
pub(super) struct EventLoop {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) reactor: Reactor,
    handler: Option<Box<dyn Handler>>,
    connections: Vec<Option<Box<Connection>>>,
    pub(super) free: Vec<usize>,
    pub(super) udp: UdpPorts,
    ports: Vec<Port>,
    to_read: VecDeque<u64>,
    to_write: Vec<u64>,
    pub(super) batch: Batch,
    scratch: Vec<u8>,
    commands: Commands,
    /// Who gets the next connection.
    next_loop: usize,
    pub(super) stop_at_ms: Option<u64>,
}

impl EventLoop {
    pub(super) fn new(
        index: usize,
        shared: Arc<Shared>,
        handler: Option<Box<dyn Handler>>,
    ) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        reactor.register(shared.loops[index].queue.wake(), WAKE, Interest::READ)?;
        Ok(Self {
            index,
            shared,
            reactor,
            handler,
            connections: Vec::new(),
            free: Vec::new(),
            udp: UdpPorts::default(),
            ports: Vec::new(),
            to_read: VecDeque::new(),
            to_write: Vec::new(),
            batch: Batch::default(),
            scratch: Vec::new(),
            commands: Commands::default(),
            next_loop: index,
            stop_at_ms: None,
        })
    }

    /// Runs until it was told to stop and everything is closed.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            let full = self.shared.inbox.is_full();
            let at_once = !full && (!self.to_read.is_empty() || self.udp.has_readable());
            self.reactor.wait(&mut ready, at_once.then_some(0))?;
            for event in &ready {
                self.handle_ready(*event);
            }
            self.run_commands();
            if !self.shared.inbox.is_full() {
                self.read_all();
                self.read_udp();
            }
            self.hand_on();
            self.write_all();
            self.write_udp();
            if self.stop_at_ms.is_some() && self.live() == 0 {
                self.hand_on();
                return Ok(());
            }
        }
    }

    fn live(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.reactor.now_ms()
    }

    fn handle_ready(&mut self, event: Ready) {
        if event.token == WAKE {
            self.shared.loops[self.index].queue.wake().drain();
        } else if event.token.0 >= FIRST_UDP_TOKEN {
            self.handle_udp((event.token.0 - FIRST_UDP_TOKEN) as usize, event);
        } else if event.token.0 >= FIRST_OWN_TOKEN {
            self.handle_port((event.token.0 - FIRST_OWN_TOKEN) as usize, event.timer);
        } else if event.timer {
            self.handle_timer(event.token.0);
        } else {
            self.handle_socket(event);
        }
    }

    // Connections: taking in, finding, letting go.

    fn handle_port(&mut self, index: usize, timer: bool) {
        if self.ports.get(index).is_none() {
            return;
        }
        let token = Token(FIRST_OWN_TOKEN + index as u64);
        if timer {
            let _ = self
                .reactor
                .modify(&self.ports[index].listener, token, Interest::READ);
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
                Accepted::Stream(stream, peer) => {
                    let framing = self.ports[index].framing;
                    self.place(stream, peer, framing);
                }
                Accepted::Empty => return,
                Accepted::Refused => Counters::add(&counters.refused_descriptors, 1),
                Accepted::Pause(_) => {
                    Counters::add(&counters.accept_pauses, 1);
                    let _ = self
                        .reactor
                        .modify(&self.ports[index].listener, token, Interest::NONE);
                    let at_ms = self.now_ms() + PAUSE_MS;
                    self.reactor.set_timer(token, at_ms);
                    return;
                }
            }
        }
    }

    /// Round robin over the loops, this one first.
    fn place(&mut self, stream: Stream, peer: String, framing: Framing) {
        if !self.admit() {
            return;
        }
        let to = self.next_loop;
        self.next_loop = (to + 1) % self.shared.loops.len();
        if to == self.index {
            self.adopt(stream, peer, framing);
        } else {
            self.shared.loops[to]
                .queue
                .push(Command::Adopt(stream, peer, framing));
        }
    }

    /// Counts one more connection in, if the limit allows it.
    pub(super) fn admit(&self) -> bool {
        let live = self.shared.live.fetch_add(1, Ordering::AcqRel);
        let fits = live < self.shared.config.max_connections;
        let counters = &self.shared.counters;
        if fits {
            Counters::add(&counters.accepted, 1);
        } else {
            self.shared.live.fetch_sub(1, Ordering::AcqRel);
            Counters::add(&counters.refused_connections, 1);
        }
        fits
    }

    fn adopt(&mut self, stream: Stream, peer: String, framing: Framing) {
        let Some(id) = self.new_id() else {
            self.shared.live.fetch_sub(1, Ordering::AcqRel);
            return;
        };
        let now_ms = self.now_ms();
        let config = &self.shared.config;
        let mut connection = Box::new(Connection::new(
            id,
            stream,
            peer.clone(),
            framing,
            config,
            now_ms,
        ));
        if self
            .reactor
            .register(connection.stream(), Token(id), Interest::EDGE)
            .is_err()
        {
            self.release(&connection);
            return;
        }
        self.shared.peers().insert(id, peer);
        if framing == Framing::Raw {
            connection.open("raw", &mut self.context());
        }
        self.put(connection);
        self.handle_timer(id);
        if self.stop_at_ms.is_some() {
            self.close(id, CloseReason::Stopped);
        }
    }

    pub(super) fn new_id(&mut self) -> Option<u64> {
        let table = &self.shared.loops[self.index].table;
        while let Some(slot) = self.free.pop() {
            if let Some(id) = table.open(slot) {
                return Some(id);
            }
            // The slot's generations are used up: it stays out of the list, and counts as free no more.
        }
        let id = table.open(self.connections.len())?;
        self.connections.push(None);
        Some(id)
    }

    /// Takes a connection out of the table for as long as it is worked on.
    fn take(&mut self, id: u64) -> Option<Box<Connection>> {
        let slot = self.connections.get_mut(Place::of(id).slot)?;
        if slot.as_ref().is_some_and(|connection| connection.id == id) {
            slot.take()
        } else {
            None
        }
    }

    fn put(&mut self, connection: Box<Connection>) {
        let slot = Place::of(connection.id).slot;
        self.connections[slot] = Some(connection);
    }

    fn context(&mut self) -> Context<'_> {
        Context {
            config: &self.shared.config,
            counters: &self.shared.counters,
            batch: &mut self.batch,
            scratch: &mut self.scratch,
            now_ms: self.reactor.now_ms(),
        }
    }

    /// Gives back everything but the socket, which its drop closes.
    fn release(&mut self, connection: &Connection) {
        let id = connection.id;
        self.shared.loops[self.index].table.close(id);
        self.shared
            .outbound_bytes
            .fetch_sub(connection.charged, Ordering::Relaxed);
        self.shared.live.fetch_sub(1, Ordering::AcqRel);
        self.shared.peers().remove(&id);
        self.reactor.cancel_timer(Token(id));
        self.free.push(Place::of(id).slot);
    }

    // Closing.

    fn close(&mut self, id: u64, reason: CloseReason) {
        if let Some(connection) = self.take(id) {
            self.end(connection, reason);
        } else {
            self.close_session(id, &reason);
        }
    }

    /// Tells the consumer; then lets it go at once, or after its last bytes.
    fn end(&mut self, mut connection: Box<Connection>, reason: CloseReason) {
        if connection.closing_until_ms.is_none() {
            reason.count(&self.shared.counters);
            self.shared.loops[self.index].table.close(connection.id);
            if connection.opened {
                Counters::add(&self.shared.counters.closed, 1);
                let header = Header {
                    kind: KIND_CLOSE,
                    sequence: 0,
                };
                self.batch
                    .push(connection.id, header, reason.to_string().as_bytes());
            }
            let until_ms = self.now_ms() + LINGER_MS;
            let until_ms = self
                .stop_at_ms
                .map_or(until_ms, |stop_ms| stop_ms.max(self.now_ms()));
            connection.start_closing(&reason, until_ms);
            self.reactor.set_timer(Token(connection.id), until_ms);
        }
        // Also the answer to a client's close frame goes out here; what does not fit is dropped.
        let flushed = connection.flush(&self.shared.counters);
        if !reason.is_graceful() || flushed.is_err() {
            self.release(&connection);
        } else {
            self.put(connection);
        }
    }

    fn handle_timer(&mut self, id: u64) {
        let Some(mut connection) = self.take(id) else {
            return;
        };
        let now_ms = self.now_ms();
        if connection.closing_until_ms.is_some() {
            self.release(&connection);
            return;
        }
        match connection.check_time(&self.shared.config, now_ms) {
            Ok(next_ms) => {
                if let Some(next_ms) = next_ms {
                    self.reactor.set_timer(Token(id), next_ms);
                }
                self.put(connection);
            }
            Err(reason) => self.end(connection, reason),
        }
    }

    // Reading and writing.

    fn handle_socket(&mut self, event: Ready) {
        let Some(mut connection) = self.take(event.token.0) else {
            return;
        };
        connection.ended |= event.ended;
        if event.readable && !connection.queued_read {
            connection.queued_read = true;
            self.to_read.push_back(connection.id);
        }
        if event.writable && !connection.outbound.is_empty() && !connection.queued_write {
            connection.queued_write = true;
            self.to_write.push(connection.id);
        }
        self.put(connection);
    }

    fn read_all(&mut self) {
        for _ in 0..self.to_read.len() {
            if self.batch.arena.len() > ROUND_BYTES {
                break;
            }
            let Some(id) = self.to_read.pop_front() else {
                break;
            };
            let Some(mut connection) = self.take(id) else {
                continue;
            };
            connection.queued_read = false;
            match connection.read(&mut self.context()) {
                Ok(more) => {
                    if more {
                        connection.queued_read = true;
                        self.to_read.push_back(id);
                    }
                    self.want_write(&mut connection);
                    self.put(connection);
                }
                Err(reason) if connection.closing_until_ms.is_some() && !reason.is_graceful() => {
                    self.release(&connection);
                }
                Err(reason) => self.end(connection, reason),
            }
        }
    }

    fn want_write(&mut self, connection: &mut Connection) {
        if !connection.outbound.is_empty() && !connection.queued_write {
            connection.queued_write = true;
            self.to_write.push(connection.id);
        }
    }

    fn hand_on(&mut self) {
        if let Some(handler) = &mut self.handler {
            if !self.batch.is_empty() {
                handler.handle(&self.batch, &self.shared);
                self.batch.clear();
                self.run_commands();
            }
        } else if self.shared.inbox.publish(&mut self.batch) {
            Counters::add(&self.shared.counters.inbound_pauses, 1);
        }
    }

    fn write_all(&mut self) {
        for id in std::mem::take(&mut self.to_write) {
            let Some(mut connection) = self.take(id) else {
                continue;
            };
            connection.queued_write = false;
            match connection.flush(&self.shared.counters) {
                Ok(()) => {
                    self.recharge(&mut connection, 0);
                    self.put(connection);
                }
                Err(reason) => self.end(connection, reason),
            }
        }
    }

    /// Charges what is queued in place of what was, and of `extra` bytes that were charged on sending.
    fn recharge(&self, connection: &mut Connection, extra: usize) {
        let queued = connection.outbound.len();
        self.shared.recharge(
            self.index,
            connection.id,
            connection.charged + extra,
            queued,
        );
        connection.charged = queued;
    }

    // Commands.

    fn run_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        self.shared.loops[self.index].queue.take(&mut commands);
        let mut at = 0;
        for command in commands.list.drain(..) {
            match command {
                Command::Write { id, bytes } => {
                    self.write(id, &commands.arena[at..at + bytes]);
                    at += bytes;
                }
                Command::Close { id, reason } => self.close(id, CloseReason::Handler(reason)),
                Command::Full { id } => {
                    let limit_bytes = self.shared.config.max_outbound_bytes;
                    self.close(id, CloseReason::Full { limit_bytes });
                }
                Command::Listen(listener, framing) => self.listen(listener, framing),
                Command::ListenUdp(listener) => self.listen_udp(*listener),
                Command::ListenUdpPlain(listener) => self.listen_udp_plain(listener),
                Command::Adopt(stream, peer, framing) => self.adopt(stream, peer, framing),
                Command::Stop { drain_ms } => self.stop(drain_ms),
            }
        }
        commands.arena.clear();
        self.commands = commands;
    }

    fn write(&mut self, id: u64, packet: &[u8]) {
        if self.udp.has(id) {
            return self.write_session(id, packet);
        }
        let taken = self
            .take(id)
            .filter(|connection| connection.closing_until_ms.is_none());
        let Some(mut connection) = taken else {
            self.shared
                .outbound_bytes
                .fetch_sub(packet.len(), Ordering::Relaxed);
            return;
        };
        let written = connection.write(packet);
        self.recharge(&mut connection, packet.len());
        match written {
            Ok(()) => {
                self.want_write(&mut connection);
                self.put(connection);
            }
            Err(reason) => self.end(connection, reason),
        }
    }

    fn listen(&mut self, listener: Listener, framing: Framing) {
        let token = Token(FIRST_OWN_TOKEN + self.ports.len() as u64);
        // It can only fail when the kernel is out of memory; the listener is closed then.
        if self
            .reactor
            .register(&listener, token, Interest::READ)
            .is_ok()
        {
            self.ports.push(Port { listener, framing });
        }
    }

    fn stop(&mut self, drain_ms: u64) {
        self.stop_at_ms = Some(self.now_ms() + drain_ms);
        self.ports.clear();
        let ids: Vec<u64> = self
            .connections
            .iter()
            .flatten()
            .map(|connection| connection.id)
            .collect();
        for id in ids.into_iter().chain(self.udp.ids()) {
            self.close(id, CloseReason::Stopped);
        }
    }
}
