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

use zmqgame_core::stream::packet::{Batch, Header};

use super::command::{Command, Commands, head_of};
use super::connection::{Connection, Context, HEAD_BYTES};
use super::counters::Counters;
use super::gate::Incoming;
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
/// The deadline of a stop.
pub(super) const STOP: Token = Token(u64::MAX - 2);
/// Batches that one round hands to a handler: its own doings (closes) make rows, too.
const BATCHES_A_ROUND: usize = 4;

/// One loop, owned by its thread.
pub(super) struct EventLoop {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) reactor: Reactor,
    handler: Option<Box<dyn Handler>>,
    /// Whether rows go to a handler, also while it is called.
    pub(super) native: bool,
    pub(super) connections: Vec<Option<Box<Connection>>>,
    pub(super) free: Vec<usize>,
    /// Slots whose generations are used up: neither free nor a connection.
    used_up: usize,
    pub(super) udp: UdpPorts,
    /// Of outgoing connections that are not there yet: the addresses that are left.
    pub(super) targets: HashMap<u64, VecDeque<Peer>>,
    pub(super) to_read: VecDeque<u64>,
    pub(super) to_write: Vec<u64>,
    /// Whose other side has ended: closed once what came before was handled.
    pub(super) to_end: Vec<u64>,
    /// Those of which the consumer was told and whom it may still answer, and the batch that told it.
    pub(super) answering: VecDeque<(u64, u64)>,
    pub(super) batch: Batch,
    /// The batch of the round before, for its storage.
    spare: Batch,
    pub(super) scratch: Vec<u8>,
    cipher: Vec<u8>,
    commands: Commands,
    /// Bytes that the handler has sent in this round and that are not charged yet.
    pub(super) uncharged: usize,
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
            native: handler.is_some(),
            handler,
            connections: Vec::new(),
            free: Vec::new(),
            used_up: 0,
            udp: UdpPorts::default(),
            targets: HashMap::new(),
            to_read: VecDeque::new(),
            to_write: Vec::new(),
            to_end: Vec::new(),
            answering: VecDeque::new(),
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
            // Those that a stop closes make no rows: their ends are looked for in any case.
            let reads = !full || self.stop_at_ms.is_some();
            let at_once = (more && reads) || !self.batch.is_empty();
            self.reactor.wait(&mut ready, at_once.then_some(0))?;
            for event in &ready {
                self.handle_ready(*event);
            }
            let handled = self.shared.inbox.handled();
            self.run_commands();
            self.end_answered(handled);
            let full = self.shared.inbox.is_full();
            if !full || self.stop_at_ms.is_some() {
                self.read_all();
            }
            if !full {
                self.read_udp();
            }
            self.hand_on();
            self.write_all();
            self.write_udp();
            if self.is_over() {
                self.hand_on();
                return Ok(());
            }
        }
    }

    /// Whether it was told to stop, and everything is closed or the time for that is over.
    fn is_over(&mut self) -> bool {
        if self.stop_at_ms.is_none() && self.shared.stopping.load(Ordering::Relaxed) {
            // Who has stopped it did not wait: a handler took longer than was given to all.
            let given_up = self.shared.loops[self.index].queue.is_closed();
            if given_up {
                self.stop(self.now_ms());
            }
        }
        let live = self.connections.len() - self.free.len() - self.used_up;
        self.stop_at_ms
            .is_some_and(|stop_ms| live == 0 || stop_ms <= self.now_ms())
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
        } else if event.token == STOP {
            // It has woken the loop, which looks at the time.
        } else if event.token.0 >= FIRST_UDP_TOKEN {
            self.handle_udp((event.token.0 - FIRST_UDP_TOKEN) as usize, event);
        } else if event.timer {
            self.handle_timer(event.token.0);
        } else {
            self.handle_socket(event);
        }
    }

    // The handler.

    pub(super) fn with_handler<T>(
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
        self.native = handler.is_some();
        self.handler = handler;
        let first = self.with_handler(|handler, out| {
            let (mut waiting, loops_wait) = out.shared().inbox.take();
            if loops_wait {
                out.shared().wake_loops();
            }
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
            let told = self.tell_ended();
            let published = self.shared.inbox.publish(&mut self.batch, !told.is_empty());
            if published.full {
                Counters::add(&self.shared.counters.inbound_pauses, 1);
            }
            let answering = told.into_iter().map(|id| (id, published.number));
            self.answering.extend(answering);
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
    pub(super) fn after_write(
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

    pub(super) fn adopt(&mut self, incoming: Incoming) {
        let Some(id) = self.new_id() else {
            return;
        };
        let connection = Connection::new(id, incoming, &self.shared.config);
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
            // The slot's generations are used up: it stays out of the list.
            self.used_up += 1;
        }
        let id = table.open(self.connections.len())?;
        self.connections.push(None);
        Some(id)
    }

    /// Takes a connection out of the table for as long as it is worked on.
    #[inline]
    pub(super) fn take(&mut self, id: u64) -> Option<Box<Connection>> {
        let slot = self.connections.get_mut(Place::of(id).slot)?;
        if slot.as_ref().is_some_and(|connection| connection.id == id) {
            slot.take()
        } else {
            None
        }
    }

    // For every packet of a handler: a call would cost more than what it does.
    #[inline(always)]
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

    pub(super) fn count_memory(&self, connection: &mut Connection) -> Result<(), CloseReason> {
        let limit_bytes = self.shared.config.max_memory_bytes;
        if connection.admission.count_memory(connection.memory()) {
            Ok(())
        } else {
            Err(CloseReason::Memory { limit_bytes })
        }
    }

    // Commands.

    fn run_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        self.shared.loops[self.index].queue.take(&mut commands);
        for (&id, &paused) in &commands.pauses {
            self.pause(id, paused);
        }
        let mut at = 0;
        for command in commands.list.drain(..) {
            match command {
                Command::Write { id, bytes } => {
                    let packets = &commands.arena[at..at + bytes];
                    at += bytes;
                    let rest = commands.arena.len() - at;
                    let taken_charge = &self.shared.loops[self.index].taken_charge;
                    taken_charge.store(rest, Ordering::Relaxed);
                    self.write(id, packets);
                }
                Command::Close { id, reason } => self.close(id, CloseReason::Handler(reason)),
                Command::Full { id } => {
                    let limit_bytes = self.shared.config.max_outbound_bytes;
                    self.close(id, CloseReason::Full { limit_bytes });
                }
                // The gate's.
                Command::Listen(..) => {}
                // Who asks waits for the answer, and has nothing better to do.
                Command::ListenUdp(listener, answer) => {
                    let _ = answer.send(self.listen_udp(*listener));
                }
                Command::ListenUdpPlain(listener, answer) => {
                    let _ = answer.send(self.listen_udp_plain(listener));
                }
                Command::ForgetUdpPlain(address) => self.forget_udp_plain(address),
                Command::Adopt(incoming) => self.adopt(*incoming),
                Command::Connect(dial, answer) => {
                    let _ = answer.send(self.connect(*dial));
                }
                Command::Handle(handler, answer) => {
                    self.set_handler(handler);
                    let _ = answer.send(Ok(()));
                }
                Command::Stop { until_ms } => self.stop(until_ms),
            }
        }
        commands.clear();
        let held = commands.held_bytes();
        let taken_bytes = &self.shared.loops[self.index].taken_bytes;
        taken_bytes.store(held, Ordering::Relaxed);
        self.commands = commands;
    }
}
