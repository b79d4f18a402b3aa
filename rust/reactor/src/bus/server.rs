//! The loop: takes connections, reads all that is ready, lets the router decide, writes each link's
//! output in as few calls as possible.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use zmqgame_core::zmtp::{Config, Established, Event};

use super::counters::{Counters, Log, LogLine};
use super::gate::Gate;
use super::limits::{
    ACCEPTS_A_TURN, HANDSHAKE_READS_A_TURN, MAX_CONNECTIONS, MAX_HANDSHAKES, OUT_MAX_BYTES,
    PARTIAL_MAX_BYTES, READ_BYTES, READS_A_TURN,
};
use super::link::{Link, ReadOutcome};
use crate::listener::{Accepted, Listener, PAUSE_MS};
use crate::reactor::{Interest, Reactor, Ready, Token};
use crate::wake::Wake;

/// A connection's number, never used twice in a process.
pub type Conn = u64;

/// What a router wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send one message.
    Send {
        /// To whom; if it is gone, nothing happens.
        conn: Conn,
        /// The message.
        bytes: Vec<u8>,
    },
    /// End a connection after what was sent to it.
    Close {
        /// Which.
        conn: Conn,
        /// For the log.
        why: String,
    },
    /// End the loop.
    Exit {
        /// For whoever waits for the end.
        why: String,
    },
}

/// Who decides where messages go. Called on the loop's thread; it must not wait.
pub trait Router {
    /// A peer has finished its handshake.
    fn connected(&mut self, now_ms: u64, conn: Conn, established: &Established, address: &str);
    /// A message of a connected peer.
    fn frame(&mut self, now_ms: u64, conn: Conn, frame: &[u8]);
    /// A part of a message has come that is large enough for a sign of life.
    fn progress(&mut self, now_ms: u64, conn: Conn);
    /// A connected peer is gone. Not called for a close that the router asked for.
    fn disconnected(&mut self, now_ms: u64, conn: Conn);
    /// There is room again for a connection (true), or too much waits for it (false).
    fn set_writable(&mut self, conn: Conn, writable: bool);
    /// Another thread has asked for attention.
    fn woken(&mut self, now_ms: u64);
    /// When the router wants to be called without a message.
    fn poll_timeout(&mut self) -> Option<u64>;
    /// That time has come.
    fn timeout(&mut self, now_ms: u64);
    /// The next thing to do; called until there is none, at the end of each turn.
    fn poll(&mut self, now_ms: u64) -> Option<Action>;
}

/// Shared with other threads: counters as of the end of the last turn, and the log.
#[derive(Debug, Default)]
pub struct Watch {
    counters: Mutex<Counters>,
    log: Mutex<Log>,
    connections: AtomicUsize,
}

impl Watch {
    /// The counters as of the end of a recent turn.
    pub fn counters(&self) -> Counters {
        self.counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The log lines since the last call.
    pub fn take_log(&self) -> Vec<LogLine> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Links open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

const WAKE: Token = Token(0);
/// Tokens of listeners are 1, 2 ...; a link's slot is 32 bits above its round.
const FIRST_LINK: u64 = 1 << 32;
/// How often in a turn the router may fill up links that have become empty.
const ROUNDS_A_TURN: usize = 4;
/// Counters are copied out at most this often.
const PUBLISH_MS: u64 = 50;

struct Slot {
    /// How often the slot was used: makes its next connection's number a new one.
    round: u32,
    link: Option<Link>,
}

/// Sockets, links and a router on one thread.
pub struct Server<R> {
    /// Who decides.
    pub router: R,
    reactor: Reactor,
    config: Arc<Config>,
    listeners: Vec<Listener>,
    paused_until_ms: Option<u64>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    open: usize,
    /// Links before READY, oldest first; those that are done are taken out when it gets long.
    handshakes: Vec<Conn>,
    gate: Gate,
    /// How many peers in a CURVE handshake are still read in this turn.
    handshake_reads: usize,
    /// Held of frames that are not whole, by all links.
    partial_bytes: usize,
    dirty: Vec<Conn>,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    wake: Wake,
    counters: Counters,
    published_ms: u64,
    /// Counters have changed since they were copied out.
    stale: bool,
    /// The router was told of new room and may have more to send.
    again: bool,
    watch: Arc<Watch>,
    exit: Option<String>,
}

impl<R: Router> Server<R> {
    /// A loop over listeners that are bound already.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new(
        router: R,
        config: Config,
        listeners: Vec<Listener>,
        wake: Wake,
    ) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        reactor.register(&wake, WAKE, Interest::READ)?;
        for (index, listener) in listeners.iter().enumerate() {
            reactor.register(listener, Token(index as u64 + 1), Interest::READ)?;
        }
        Ok(Self {
            router,
            reactor,
            config: Arc::new(config),
            listeners,
            paused_until_ms: None,
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
            handshakes: Vec::new(),
            gate: Gate::new(0),
            handshake_reads: 0,
            partial_bytes: 0,
            dirty: Vec::new(),
            buffer: vec![0; READ_BYTES],
            ready: Vec::new(),
            wake,
            counters: Counters::default(),
            published_ms: 0,
            stale: false,
            again: false,
            watch: Arc::default(),
            exit: None,
        })
    }

    /// What other threads may look at.
    #[must_use]
    pub fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// The loop's clock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.reactor.now_ms()
    }

    /// Other keys, for connections from now on; the others keep theirs.
    pub fn set_config(&mut self, config: Config) {
        self.config = Arc::new(config);
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        let mut links = self.slots.iter().filter_map(|slot| slot.link.as_ref());
        links.all(|link| link.peer.out_bytes() == 0)
    }

    /// Takes no more connections.
    pub fn stop_listening(&mut self) {
        self.listeners.clear();
        self.paused_until_ms = None;
    }

    /// Waits for something to happen, at most so long, and does what follows from it. The reason
    /// why the loop has to end, once there is one.
    ///
    /// # Errors
    /// epoll is broken, which no input can cause.
    pub fn turn(&mut self, at_most_ms: Option<u64>) -> io::Result<Option<String>> {
        let wait_ms = self.wait_ms(at_most_ms);
        let mut ready = std::mem::take(&mut self.ready);
        self.reactor.wait(&mut ready, wait_ms)?;
        self.counters.turns += 1;
        let now_ms = self.reactor.now_ms();
        self.handshake_reads = HANDSHAKE_READS_A_TURN;
        for event in &ready {
            self.event(*event, now_ms);
        }
        self.ready = ready;
        self.resume_listeners(now_ms);
        if self
            .router
            .poll_timeout()
            .is_some_and(|at_ms| at_ms <= now_ms)
        {
            self.router.timeout(now_ms);
        }
        for _ in 0..ROUNDS_A_TURN {
            self.again = false;
            self.act(now_ms);
            self.flush_dirty(now_ms);
            if !self.again {
                break;
            }
        }
        self.publish(now_ms);
        Ok(self.exit.clone())
    }

    fn wait_ms(&mut self, at_most_ms: Option<u64>) -> Option<u64> {
        if self.again {
            return Some(0);
        }
        let publish = self.stale.then_some(self.published_ms + PUBLISH_MS);
        let deadlines = [self.router.poll_timeout(), self.paused_until_ms, publish];
        match deadlines.into_iter().flatten().min() {
            None => at_most_ms,
            Some(at_ms) => {
                let until = at_ms.saturating_sub(self.reactor.refresh_now());
                Some(at_most_ms.map_or(until, |at_most| at_most.min(until)))
            }
        }
    }

    fn event(&mut self, event: Ready, now_ms: u64) {
        let Token(token) = event.token;
        if event.token == WAKE {
            self.wake.drain();
            self.router.woken(now_ms);
        } else if token < FIRST_LINK {
            self.accept(token as usize - 1, now_ms);
        } else if event.timer {
            self.timer(token, now_ms);
        } else {
            if event.readable && self.may_read(token) {
                self.read(token, now_ms);
            }
            if event.writable {
                self.mark_dirty(token);
            }
        }
    }

    fn link(&mut self, conn: Conn) -> Option<&mut Link> {
        let slot = self.slots.get_mut(slot_of(conn))?;
        if slot.round == round_of(conn) {
            slot.link.as_mut()
        } else {
            None
        }
    }

    /// Peers in a handshake get a part of the turn only; epoll names those left out again.
    fn may_read(&mut self, conn: Conn) -> bool {
        let curve = self.config.is_curve();
        if !curve || self.link(conn).is_none_or(|link| link.known) {
            return true;
        }
        let may = self.handshake_reads > 0;
        self.handshake_reads = self.handshake_reads.saturating_sub(1);
        may
    }

    fn accept(&mut self, index: usize, now_ms: u64) {
        for _ in 0..ACCEPTS_A_TURN {
            let Some(listener) = self.listeners.get_mut(index) else {
                return;
            };
            match listener.accept() {
                Accepted::Stream(stream, peer) => {
                    let address = peer.to_string();
                    self.counters.accepted += 1;
                    if self.open >= MAX_CONNECTIONS {
                        self.note(
                            "too_many_connections",
                            address,
                            format!("the limit is {MAX_CONNECTIONS}"),
                        );
                    } else if let Err(why) = self.gate.admit(now_ms, &address) {
                        self.note("too_many_handshakes", address, why);
                    } else if let Err(error) = self.open(stream, address.clone()) {
                        self.note("descriptors", address, error.to_string());
                    } else {
                        self.bound_handshakes(now_ms);
                    }
                }
                Accepted::Empty => return,
                Accepted::Refused => {
                    self.note(
                        "descriptors",
                        String::new(),
                        "out of file descriptors".into(),
                    );
                }
                Accepted::Pause(error) => {
                    self.note("descriptors", String::new(), error.to_string());
                    self.pause_listeners(now_ms);
                    return;
                }
            }
        }
    }

    fn open(&mut self, stream: crate::stream::Stream, address: String) -> io::Result<()> {
        let mut entropy = [0; 96];
        crate::random(&mut entropy)?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                round: 0,
                link: None,
            });
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.round = slot.round.wrapping_add(1);
        let conn = conn_of(index, slot.round);
        let config = Arc::clone(&self.config);
        match Link::new(
            stream,
            address,
            Token(conn),
            config,
            entropy,
            &mut self.reactor,
        ) {
            Ok(link) => slot.link = Some(link),
            Err(error) => {
                self.free.push(index);
                return Err(error);
            }
        }
        self.open += 1;
        self.handshakes.push(conn);
        self.mark_dirty(conn);
        Ok(())
    }

    fn bound_handshakes(&mut self, now_ms: u64) {
        if self.handshakes.len() <= MAX_HANDSHAKES {
            return;
        }
        let mut handshakes = std::mem::take(&mut self.handshakes);
        handshakes.retain(|&conn| self.link(conn).is_some_and(|link| !link.peer.is_ready()));
        while handshakes.len() > MAX_HANDSHAKES {
            let why = format!("the limit is {MAX_HANDSHAKES}");
            self.close(handshakes.remove(0), "too_many_handshakes", &why, now_ms);
        }
        self.handshakes = handshakes;
    }

    fn pause_listeners(&mut self, now_ms: u64) {
        for (index, listener) in self.listeners.iter().enumerate() {
            // Fails only for a descriptor that is not registered, and these are.
            let _ = self
                .reactor
                .modify(listener, Token(index as u64 + 1), Interest::NONE);
        }
        self.paused_until_ms = Some(now_ms + PAUSE_MS);
    }

    fn resume_listeners(&mut self, now_ms: u64) {
        if self.paused_until_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.paused_until_ms = None;
            for (index, listener) in self.listeners.iter().enumerate() {
                // As above.
                let _ = self
                    .reactor
                    .modify(listener, Token(index as u64 + 1), Interest::READ);
            }
        }
    }

    fn timer(&mut self, conn: Conn, now_ms: u64) {
        let Some(link) = self.link(conn) else {
            return;
        };
        link.timer_fired();
        match link.peer.handle_timeout(now_ms) {
            Err(error) => self.close(conn, error.kind(), &error.to_string(), now_ms),
            Ok(()) => self.update_timer(conn),
        }
    }

    fn update_timer(&mut self, conn: Conn) {
        let slot = &mut self.slots[slot_of(conn)];
        if let Some(link) = &mut slot.link {
            link.update_timer(&mut self.reactor);
        }
    }

    fn read(&mut self, conn: Conn, now_ms: u64) {
        for _ in 0..READS_A_TURN {
            let Some(link) = self
                .slots
                .get_mut(slot_of(conn))
                .filter(|slot| slot.round == round_of(conn))
            else {
                return;
            };
            let Some(link) = &mut link.link else {
                return;
            };
            let count = match link.read(&mut self.buffer) {
                ReadOutcome::Bytes(count) => count,
                ReadOutcome::Nothing => return,
                ReadOutcome::Ended => {
                    return self.close(conn, "disconnected", "closed by the peer", now_ms);
                }
            };
            self.counters.in_bytes += count as u64;
            let (router, counters, gate) = (&mut self.router, &mut self.counters, &mut self.gate);
            let Link {
                peer,
                address,
                known,
                ..
            } = link;
            let mut whole = false;
            let bytes = &mut self.buffer[..count];
            let result = peer.handle_input(now_ms, bytes, &mut |event| match event {
                Event::Frame(frame) => {
                    whole = true;
                    counters.in_frames += 1;
                    router.frame(now_ms, conn, frame);
                }
                Event::Ready(established) => {
                    counters.established += 1;
                    *known = true;
                    if established.key.is_some() {
                        gate.proven(address);
                    }
                    router.connected(now_ms, conn, established, address);
                }
            });
            let waiting = peer.out_bytes();
            if let Err(error) = result {
                return self.close(conn, error.kind(), &error.to_string(), now_ms);
            }
            if link.life.read(count, whole) && link.known {
                router.progress(now_ms, conn);
            }
            self.count_partial(conn, now_ms);
            self.update_timer(conn);
            if waiting > 0 {
                self.mark_dirty(conn);
            }
            // Less than was asked for: the kernel has no more; epoll tells if that changes.
            if count < READ_BYTES {
                return;
            }
        }
    }

    /// Counts what a link holds of an unfinished frame; over the limit of all, the largest goes, strangers
    /// first.
    fn count_partial(&mut self, conn: Conn, now_ms: u64) {
        let Some(link) = self.link(conn) else {
            return;
        };
        let (before, now) = (link.partial_bytes, link.peer.in_bytes());
        link.partial_bytes = now;
        self.partial_bytes = self.partial_bytes - before + now;
        while self.partial_bytes > PARTIAL_MAX_BYTES {
            let links = self.slots.iter().enumerate().filter_map(|(index, slot)| {
                let link = slot.link.as_ref()?;
                let rank = (!link.peer.has_spoken(), link.partial_bytes);
                (link.partial_bytes > 0).then_some((rank, conn_of(index, slot.round)))
            });
            let Some((_, largest)) = links.max() else {
                return;
            };
            let why = format!("unfinished frames hold more than {PARTIAL_MAX_BYTES} bytes");
            self.close(largest, "unfinished_frames", &why, now_ms);
        }
    }

    /// Ends a link for a reason of its own, and tells the router if it knew it.
    fn close(&mut self, conn: Conn, kind: &'static str, why: &str, now_ms: u64) {
        if self.remove(conn, kind, why) {
            self.router.disconnected(now_ms, conn);
        }
    }

    /// Ends a link; whether the router knew it.
    fn remove(&mut self, conn: Conn, kind: &'static str, why: &str) -> bool {
        let Some(slot) = self
            .slots
            .get_mut(slot_of(conn))
            .filter(|slot| slot.round == round_of(conn))
        else {
            return false;
        };
        let Some(link) = slot.link.take() else {
            return false;
        };
        self.free.push(slot_of(conn));
        self.open -= 1;
        self.partial_bytes -= link.partial_bytes;
        let (address, known) = (link.address.clone(), link.known);
        link.close(&mut self.reactor);
        self.note(kind, address, why.to_owned());
        known
    }

    fn note(&mut self, kind: &'static str, address: String, text: String) {
        *self.counters.closed.entry(kind).or_default() += 1;
        let line = LogLine {
            event: "closed",
            kind,
            address,
            text,
        };
        let kept = self
            .watch
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
        self.counters.log_dropped += u64::from(!kept);
    }

    fn mark_dirty(&mut self, conn: Conn) {
        if let Some(link) = self.link(conn)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(conn);
        }
    }

    /// Everything that the router has decided.
    fn act(&mut self, now_ms: u64) {
        while let Some(action) = self.router.poll(now_ms) {
            match action {
                Action::Send { conn, bytes } => {
                    let Some(link) = self.link(conn) else {
                        continue;
                    };
                    link.peer.send_owned(bytes);
                    let room = link.changed_room();
                    self.counters.out_frames += 1;
                    self.mark_dirty(conn);
                    if let Some(writable) = room {
                        self.router.set_writable(conn, writable);
                    }
                }
                Action::Close { conn, why } => {
                    self.remove(conn, "closed_by_hub", &why);
                }
                Action::Exit { why } => self.exit = Some(why),
            }
        }
    }

    fn flush_dirty(&mut self, now_ms: u64) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for conn in dirty.drain(..) {
            self.flush(conn, now_ms);
        }
        self.dirty = dirty;
    }

    fn flush(&mut self, conn: Conn, now_ms: u64) {
        let slot = &mut self.slots[slot_of(conn)];
        let Some(link) = slot.link.as_mut().filter(|_| slot.round == round_of(conn)) else {
            return;
        };
        link.dirty = false;
        match link.flush(&self.reactor) {
            Ok(written) => self.counters.out_bytes += written as u64,
            Err(error) => return self.close(conn, "disconnected", &error.to_string(), now_ms),
        }
        let waiting = link.peer.out_bytes();
        if let Some(writable) = link.changed_room() {
            self.router.set_writable(conn, writable);
            self.again |= writable;
        }
        if waiting > OUT_MAX_BYTES {
            let why =
                format!("{waiting} bytes wait to be read by it, the limit is {OUT_MAX_BYTES}");
            self.close(conn, "slow_reader", &why, now_ms);
        }
    }

    fn publish(&mut self, now_ms: u64) {
        self.stale |= !self.ready.is_empty();
        if !self.stale || now_ms < self.published_ms + PUBLISH_MS {
            return;
        }
        self.stale = false;
        self.published_ms = now_ms;
        self.watch.connections.store(self.open, Ordering::Relaxed);
        self.watch
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&self.counters);
    }
}

fn conn_of(slot: usize, round: u32) -> Conn {
    (slot as u64 + 1) << 32 | u64::from(round)
}

fn slot_of(conn: Conn) -> usize {
    usize::try_from(conn >> 32)
        .unwrap_or(usize::MAX)
        .wrapping_sub(1)
}

fn round_of(conn: Conn) -> u32 {
    (conn & 0xffff_ffff) as u32
}
