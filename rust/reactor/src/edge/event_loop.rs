//! One loop: a thread with its connections, its listeners and its round.
//!
//! A round: wait; take commands; accept; read every connection that has something (a bounded turn
//! each, into one batch); hand the batch on; write what waits. Connections are edge-triggered, so the
//! list `to_read` remembers who is not read to the end: a round that stops early, or an inbox that is
//! full, loses nobody.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zmqgame_core::stream::packet::{Batch, Header, KIND_CLOSE};

use super::command::{Command, Commands, head_of, packets_of};
use super::config::{LINGER_MS, ROUND_BYTES};
use super::connection::{Connection, Context, HEAD_BYTES, Incoming, Turn};
use super::counters::Counters;
use super::handler::{Handler, Out};
use super::reason::CloseReason;
use super::shared::Shared;
use super::table::{AtBound, NotCharged, Place};
use super::udp_loop::UdpPorts;
use crate::listener::Peer;
use crate::reactor::{Interest, Reactor, Ready, Token};

/// Tokens from here on are not connections: ids stay below it.
pub(super) const FIRST_UDP_TOKEN: u64 = 3 << 62;
const WAKE: Token = Token(u64::MAX);
const TICK: Token = Token(u64::MAX - 1);
/// Batches that one round hands to a handler: its own doings (closes) make rows, too.
const BATCHES_A_ROUND: usize = 4;

/// One loop, owned by its thread.
pub(super) struct EventLoop {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) reactor: Reactor,
    handler: Option<Box<dyn Handler>>,
    connections: Vec<Option<Box<Connection>>>,
    pub(super) free: Vec<usize>,
    pub(super) udp: UdpPorts,
    /// Of outgoing connections that are not there yet: the addresses that are left.
    pub(super) targets: HashMap<u64, VecDeque<Peer>>,
    to_read: VecDeque<u64>,
    to_write: Vec<u64>,
    /// Whose other side has ended: closed once what came before was handled.
    to_end: Vec<u64>,
    pub(super) batch: Batch,
    /// The batch of the round before, for its storage.
    spare: Batch,
    pub(super) scratch: Vec<u8>,
    cipher: Vec<u8>,
    commands: Commands,
    /// Bytes that the handler has sent in this round and that are not charged yet.
    uncharged: usize,
    pub(super) stop_at_ms: Option<u64>,
}

impl EventLoop {
    pub(super) fn new(
        index: usize,
        shared: Arc<Shared>,
        handler: Option<Box<dyn Handler>>,
    ) -> io::Result<Self> {
        let reactor = Reactor::with_clock(shared.start)?;
        reactor.register(shared.loops[index].queue.wake(), WAKE, Interest::READ)?;
        Ok(Self {
            index,
            shared,
            reactor,
            handler,
            connections: Vec::new(),
            free: Vec::new(),
            udp: UdpPorts::default(),
            targets: HashMap::new(),
            to_read: VecDeque::new(),
            to_write: Vec::new(),
            to_end: Vec::new(),
            batch: Batch::default(),
            spare: Batch::default(),
            scratch: Vec::new(),
            cipher: Vec::new(),
            commands: Commands::default(),
            uncharged: 0,
            stop_at_ms: None,
        })
    }

    /// Runs until it was told to stop and everything is closed.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        let first = self.with_handler(|handler, out| handler.boot(out));
        self.set_tick(first.flatten());
        loop {
            let full = self.shared.inbox.is_full();
            let more = !self.to_read.is_empty() || self.udp.has_readable();
            let at_once = (more && !full) || !self.batch.is_empty();
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
            let end = &self.shared.loops[self.index];
            end.queue.wake().drain();
            if end.woken.swap(false, Ordering::AcqRel) {
                self.with_handler(|handler, out| handler.woken(out));
            }
        } else if event.token == TICK {
            let now_ms = self.now_ms();
            let next = self.with_handler(|handler, out| handler.tick(now_ms, out));
            self.set_tick(next.flatten());
        } else if event.token.0 >= FIRST_UDP_TOKEN {
            self.handle_udp((event.token.0 - FIRST_UDP_TOKEN) as usize, event);
        } else if event.timer {
            self.handle_timer(event.token.0);
        } else {
            self.handle_socket(event);
        }
    }

    // The handler.

    fn with_handler<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Handler, &mut Out<'_>) -> T,
    ) -> Option<T> {
        let mut handler = self.handler.take()?;
        let done = work(&mut *handler, &mut Out { event_loop: self });
        self.handler = Some(handler);
        Some(done)
    }

    /// Another handler, or none: then the rows go to the inbox, as those that nobody has taken yet are
    /// the new handler's first.
    fn set_handler(&mut self, handler: Option<Box<dyn Handler>>) {
        self.hand_on();
        self.reactor.cancel_timer(TICK);
        self.handler = handler;
        let first = self.with_handler(|handler, out| {
            let (mut waiting, _) = out.shared().inbox.take();
            if !waiting.is_empty() {
                handler.take(&mut waiting, out);
            }
            handler.boot(out)
        });
        self.set_tick(first.flatten());
    }

    fn set_tick(&mut self, after_ms: Option<u64>) {
        if let Some(after_ms) = after_ms {
            // Not before the next millisecond, or the loop would do nothing else.
            let at_ms = self.now_ms().saturating_add(after_ms.max(1));
            self.reactor.set_timer(TICK, at_ms);
        }
    }

    /// Hands the rows on, and ends those whose other side has ended: in between the handler could answer.
    fn hand_on(&mut self) {
        if self.handler.is_none() {
            self.end_ended();
            if self.shared.inbox.publish(&mut self.batch) {
                Counters::add(&self.shared.counters.inbound_pauses, 1);
            }
            return;
        }
        for _ in 0..BATCHES_A_ROUND {
            if !self.batch.is_empty() {
                let spare = std::mem::take(&mut self.spare);
                let mut batch = std::mem::replace(&mut self.batch, spare);
                self.with_handler(|handler, out| handler.take(&mut batch, out));
                batch.clear();
                self.spare = batch;
            }
            if self.to_end.is_empty() && self.batch.is_empty() {
                break;
            }
            self.end_ended();
        }
    }

    fn end_ended(&mut self) {
        for id in std::mem::take(&mut self.to_end) {
            self.close(id, CloseReason::Peer);
        }
    }

    /// A packet of the handler, straight into the connection's buffer.
    pub(super) fn send(&mut self, id: u64, header: Header, parts: &[&[u8]]) -> bool {
        if Place::of(id).owner != self.index {
            return self.shared.send_vectored(id, header, parts);
        }
        if self.udp.has(id) {
            return self.send_datagram(id, header, parts);
        }
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let bytes = HEAD_BYTES + payload;
        let Some(mut connection) = self.take(id) else {
            self.shared.count_refused(NotCharged::Closed);
            return false;
        };
        if connection.is_closing() {
            self.shared.count_refused(NotCharged::Closed);
            self.put(connection);
            return false;
        }
        let total = self.shared.outbound_bytes.load(Ordering::Relaxed) + self.uncharged + bytes;
        if total > self.shared.config.max_outbound_total_bytes {
            self.shared.count_refused(NotCharged::Full);
            self.put(connection);
            return false;
        }
        let (bound, at_bound) = self.shared.bound_of(header.kind);
        if connection.outbound.len() + bytes > bound {
            return self.refuse_write(connection, at_bound);
        }
        self.uncharged += bytes;
        Counters::add(&self.shared.counters.packets_out, 1);
        let written = connection.write(&head_of(header, payload), parts);
        self.after_write(connection, written)
    }

    fn refuse_write(&mut self, connection: Box<Connection>, at_bound: AtBound) -> bool {
        if at_bound == AtBound::Drop {
            self.shared.count_refused(NotCharged::Dropped);
            self.put(connection);
        } else {
            self.shared.count_refused(NotCharged::Full);
            let limit_bytes = self.shared.config.max_outbound_bytes;
            self.end(connection, CloseReason::Full { limit_bytes });
        }
        false
    }

    /// Notes that it has something to write. Gives whether it lives.
    fn after_write(
        &mut self,
        mut connection: Box<Connection>,
        written: Result<(), CloseReason>,
    ) -> bool {
        match written.and_then(|()| self.count_memory(&mut connection)) {
            Ok(()) => {
                self.want_write(&mut connection);
                self.put(connection);
                true
            }
            Err(reason) => {
                self.end(connection, reason);
                false
            }
        }
    }

    // Connections: taking in, finding, letting go.

    fn adopt(&mut self, incoming: Incoming) {
        let Some(id) = self.new_id() else {
            return;
        };
        let connection = Connection::new(id, incoming, &self.shared.config, false);
        let mut connection = Box::new(connection);
        let watched = self
            .reactor
            .register(connection.line.as_fd(), Token(id), Interest::EDGE);
        if watched.is_err() {
            self.release(connection);
            return;
        }
        self.shared.peers().insert(id, connection.peer.to_string());
        connection.start(&mut self.context());
        // What TLS has decrypted or encrypted already makes no event.
        if connection.line.tls().is_some() {
            self.want_read(&mut connection);
            self.want_write(&mut connection);
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

    pub(super) fn put(&mut self, connection: Box<Connection>) {
        let slot = Place::of(connection.id).slot;
        self.connections[slot] = Some(connection);
    }

    pub(super) fn context(&mut self) -> Context<'_> {
        Context {
            config: &self.shared.config,
            counters: &self.shared.counters,
            batch: &mut self.batch,
            scratch: &mut self.scratch,
            cipher: &mut self.cipher,
            now_ms: self.reactor.now_ms(),
        }
    }

    /// Lets it go for good.
    pub(super) fn release(&mut self, connection: Box<Connection>) {
        let id = connection.id;
        self.shared.loops[self.index].table.close(id);
        self.shared
            .outbound_bytes
            .fetch_sub(connection.charged, Ordering::Relaxed);
        self.shared.peers().remove(&id);
        self.targets.remove(&id);
        self.reactor.cancel_timer(Token(id));
        self.free.push(Place::of(id).slot);
        drop(connection);
    }

    fn count_memory(&self, connection: &mut Connection) -> Result<(), CloseReason> {
        let limit_bytes = self.shared.config.max_memory_bytes;
        if connection.admission.count_memory(connection.memory()) {
            Ok(())
        } else {
            Err(CloseReason::Memory { limit_bytes })
        }
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
        if !connection.is_closing() {
            reason.count(&self.shared.counters);
            self.shared.loops[self.index].table.close(connection.id);
            if connection.opened || connection.outgoing {
                let header = Header {
                    kind: KIND_CLOSE,
                    sequence: 0,
                };
                let text = reason.to_string();
                self.batch.push(connection.id, header, text.as_bytes());
            }
            if connection.opened {
                Counters::add(&self.shared.counters.closed, 1);
            }
            let now_ms = self.now_ms();
            let until_ms = self
                .stop_at_ms
                .map_or(now_ms + LINGER_MS, |stop_ms| stop_ms.max(now_ms));
            connection.start_closing(&reason, until_ms);
            self.reactor.set_timer(Token(connection.id), until_ms);
        }
        // Also the answer to a client's close frame goes out here; what does not fit is dropped.
        let flushed = connection.flush(&self.shared.counters);
        // Who has ended only its own half still gets what was sent before.
        let rest = reason == CloseReason::Peer && connection.wants_write();
        if flushed.is_ok() && (reason.is_graceful() || rest) {
            self.put(connection);
        } else {
            self.release(connection);
        }
    }

    pub(super) fn handle_timer(&mut self, id: u64) {
        let Some(mut connection) = self.take(id) else {
            return;
        };
        connection.timer = false;
        if connection.is_closing() {
            self.release(connection);
        } else if let Err(reason) = self.look_at_time(&mut connection) {
            self.end(connection, reason);
        } else {
            if connection.unread && connection.may_read() {
                self.want_read(&mut connection);
            }
            self.put(connection);
        }
    }

    /// Sets its next deadline.
    fn look_at_time(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let next_ms = connection.check_time(&self.shared.config, self.now_ms())?;
        connection.timer = next_ms.is_some();
        if let Some(next_ms) = next_ms {
            self.reactor.set_timer(Token(connection.id), next_ms);
        }
        self.count_memory(connection)
    }

    // Reading and writing.

    fn handle_socket(&mut self, event: Ready) {
        let Some(mut connection) = self.take(event.token.0) else {
            return;
        };
        connection.ended |= event.ended;
        if self.targets.contains_key(&connection.id) && !connection.is_closing() {
            if event.writable {
                match self.go_on(&mut connection) {
                    Ok(()) => self.count_connected(&connection),
                    Err(reason) => return self.end(connection, reason),
                }
            }
            self.want_read(&mut connection);
            return self.put(connection);
        }
        connection.gone |= event.hangup;
        if event.readable {
            self.want_read(&mut connection);
        }
        if event.writable {
            self.want_write(&mut connection);
        }
        self.put(connection);
    }

    fn count_connected(&self, connection: &Connection) {
        if !self.targets.contains_key(&connection.id) {
            self.count_connect();
        }
    }

    fn want_read(&mut self, connection: &mut Connection) {
        if !connection.may_read() {
            connection.unread = true;
        } else if !connection.queued_read {
            connection.queued_read = true;
            self.to_read.push_back(connection.id);
        }
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
            if connection.may_read() {
                self.read_one(connection);
            } else {
                connection.unread = true;
                self.put(connection);
            }
        }
    }

    fn read_one(&mut self, mut connection: Box<Connection>) {
        connection.unread = false;
        let read = connection.read(&mut self.context());
        match read.and_then(|turn| self.count_memory(&mut connection).map(|()| turn)) {
            Ok(turn) => {
                match turn {
                    Turn::Done => {}
                    Turn::More => self.want_read(&mut connection),
                    Turn::Throttled => connection.unread = true,
                }
                let timely = !connection.timer && connection.has_storage();
                if (turn == Turn::Throttled || timely)
                    && let Err(reason) = self.look_at_time(&mut connection)
                {
                    return self.end(connection, reason);
                }
                self.want_write(&mut connection);
                self.put(connection);
            }
            Err(reason) if connection.is_closing() && !reason.is_graceful() => {
                // Only its half: what waits still goes out.
                if reason == CloseReason::Peer && connection.wants_write() {
                    connection.at_end = true;
                    self.put(connection);
                } else {
                    self.release(connection);
                }
            }
            Err(CloseReason::Peer) => {
                connection.at_end = true;
                self.to_end.push(connection.id);
                self.put(connection);
            }
            Err(reason) => self.end(connection, reason),
        }
    }

    fn want_write(&mut self, connection: &mut Connection) {
        if !connection.queued_write && connection.wants_write() {
            connection.queued_write = true;
            self.to_write.push(connection.id);
        }
    }

    fn write_all(&mut self) {
        let mut ids = std::mem::take(&mut self.to_write);
        for id in ids.drain(..) {
            let Some(mut connection) = self.take(id) else {
                continue;
            };
            connection.queued_write = false;
            match connection.flush(&self.shared.counters) {
                Ok(())
                    if connection.is_closing()
                        && connection.at_end
                        && !connection.wants_write() =>
                {
                    self.release(connection);
                }
                Ok(()) => {
                    self.recharge(&mut connection, 0);
                    if !connection.timer && !connection.is_closing() {
                        // Its buffer is to be given back some time.
                        let _ = self.look_at_time(&mut connection);
                    }
                    self.put(connection);
                }
                Err(reason) => self.end(connection, reason),
            }
        }
        self.uncharged = 0;
        // Nothing was added meanwhile but by an end, whose connections are gone.
        if self.to_write.is_empty() {
            self.to_write = ids;
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
                // The gate's.
                Command::Listen(_) => {}
                Command::ListenUdp(listener) => self.listen_udp(*listener),
                Command::ListenUdpPlain(listener) => self.listen_udp_plain(listener),
                Command::Adopt(incoming) => self.adopt(*incoming),
                Command::Connect(dial, reply) => {
                    // Who has asked waits for it, and has nothing better to do.
                    let _ = reply.send(self.connect(*dial));
                }
                Command::Pause { id, paused } => self.pause(id, paused),
                Command::Handle(handler, done) => {
                    self.set_handler(handler);
                    let _ = done.send(());
                }
                Command::Stop { drain_ms } => self.stop(drain_ms),
            }
        }
        commands.arena.clear();
        self.commands = commands;
    }

    fn write(&mut self, id: u64, packets: &[u8]) {
        if self.udp.has(id) {
            for packet in packets_of(packets) {
                self.write_session(id, packet);
            }
            return;
        }
        let taken = self.take(id);
        let Some(mut connection) = taken else {
            let bytes = packets.len();
            self.shared
                .outbound_bytes
                .fetch_sub(bytes, Ordering::Relaxed);
            return;
        };
        let written = if connection.is_closing() {
            Ok(())
        } else {
            connection.write_packets(packets)
        };
        self.recharge(&mut connection, packets.len());
        self.after_write(connection, written);
    }

    fn pause(&mut self, id: u64, paused: bool) {
        let Some(mut connection) = self.take(id) else {
            return self.udp.pause(id, paused);
        };
        connection.paused = paused;
        if !paused {
            self.want_read(&mut connection);
        }
        self.put(connection);
    }

    fn stop(&mut self, drain_ms: u64) {
        self.with_handler(|handler, out| handler.shutdown(out));
        self.stop_at_ms = Some(self.now_ms() + drain_ms);
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
