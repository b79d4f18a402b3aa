//! What the handle and the loops of one edge share.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use zmqgame_core::stream::packet::Header;

use super::command::{Command, Queue};
use super::config::{EdgeConfig, OutboundPolicy};
use super::counters::Counters;
use super::inbox::Inbox;
use super::reason::{ThreadDied, cut};
use super::sender::Sender;
use super::table::{AtBound, NotCharged, Place, Table};

/// A packet that is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// To whom.
    pub connection: u64,
    /// What it is.
    pub kind: u8,
    /// Its number.
    pub sequence: u64,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Write<'_> {
    pub(super) fn header(&self) -> Header {
        Header {
            kind: self.kind,
            sequence: self.sequence,
        }
    }
}

/// What one loop shows to others.
#[derive(Debug)]
pub(super) struct LoopEnd {
    pub(super) table: Table,
    pub(super) queue: Queue,
    /// Its stream connections.
    pub(super) live: AtomicUsize,
    /// Its handler is to be called.
    pub(super) woken: AtomicBool,
    /// What the storage of the requests has that the loop is working on.
    pub(super) taken_bytes: AtomicUsize,
    /// Bytes of the packets among them that are still to be written: charged, and in no queue.
    pub(super) taken_charge: AtomicUsize,
}

/// How long a thread that dies may take until it is known.
const GONE: Duration = Duration::from_secs(1);

/// Which threads have ended, for those who wait for it: the loops, then the gate.
#[derive(Debug, Default)]
struct Ends {
    all: Mutex<Vec<bool>>,
    changed: Condvar,
}

/// What the handle and the loops of one edge share.
#[derive(Debug)]
pub struct Shared {
    pub(super) config: EdgeConfig,
    pub(super) counters: Counters,
    pub(super) inbox: Inbox,
    pub(super) loops: Vec<LoopEnd>,
    /// What is asked of the thread that takes connections in.
    pub(super) gate: Queue,
    /// The millisecond 0 of all loops.
    pub(super) start: Instant,
    /// Choices of a loop so far.
    pub(super) turn: AtomicUsize,
    /// Connections that are taken in, closing ones included.
    pub(super) live: AtomicUsize,
    /// Bytes charged to all connections.
    pub(super) outbound_bytes: AtomicUsize,
    /// Bytes that the buffers of all connections have.
    pub(super) memory_bytes: AtomicUsize,
    /// Connections of each client address, when they are limited. At most as many as connections.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    pub(super) stopping: AtomicBool,
    ends: Ends,
    /// The first thread that has died.
    died: OnceLock<ThreadDied>,
    /// Whether the consumer has not been told of it.
    pub(super) untold: AtomicBool,
    pub(super) peers: Mutex<HashMap<u64, String>>,
}

impl Shared {
    pub(super) fn new(config: EdgeConfig) -> std::io::Result<Self> {
        let slots = config.max_connections;
        let loops = (0..config.loops)
            .map(|owner| {
                Ok(LoopEnd {
                    table: Table::new(owner, slots),
                    queue: Queue::new()?,
                    live: AtomicUsize::new(0),
                    woken: AtomicBool::new(false),
                    taken_bytes: AtomicUsize::new(0),
                    taken_charge: AtomicUsize::new(0),
                })
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        let ends = Ends {
            all: Mutex::new(vec![false; loops.len() + 1]),
            changed: Condvar::new(),
        };
        Ok(Self {
            inbox: Inbox::new(config.max_inbound_bytes)?,
            loops,
            gate: Queue::new()?,
            start: Instant::now(),
            turn: AtomicUsize::new(0),
            memory_bytes: AtomicUsize::new(0),
            addresses: Mutex::default(),
            config,
            counters: Counters::default(),
            live: AtomicUsize::new(0),
            outbound_bytes: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            ends,
            died: OnceLock::new(),
            untold: AtomicBool::new(false),
            peers: Mutex::default(),
        })
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues packets and wakes the loops that have some. Gives how many were refused: their
    /// connection is closed, or its bound or that of all is reached.
    pub fn send<'a>(&self, writes: impl IntoIterator<Item = Write<'a>>) -> usize {
        let mut sender = Sender::new(self);
        for write in writes {
            sender.send(&write, &[write.payload]);
        }
        sender.finish()
    }

    /// Queues one packet whose payload is in parts. Gives whether it was taken.
    pub fn send_vectored(&self, connection: u64, header: Header, parts: &[&[u8]]) -> bool {
        let mut sender = Sender::new(self);
        let write = Write {
            connection,
            kind: header.kind,
            sequence: header.sequence,
            payload: &[],
        };
        sender.send(&write, parts);
        sender.finish() == 0
    }

    /// Closes a connection after what was sent before; an unknown one is closed already, and the first
    /// reason is the one that counts. Of a reason at most 123 bytes are told.
    pub fn close(&self, connection: u64, reason: &str) {
        let (id, end) = (connection, self.loops.get(Place::of(connection).owner));
        if let Some(end) = end.filter(|end| end.table.close(id)) {
            let reason = cut(reason).to_owned();
            // Who does not take it has closed the connection.
            let _ = end.queue.push(Command::Close { id, reason });
        }
    }

    /// Reads a connection no more, or again. What comes meanwhile waits in the network.
    pub fn pause(&self, connection: u64, paused: bool) {
        let end = self.loops.get(Place::of(connection).owner);
        let Some(end) = end.filter(|end| end.table.queued(connection).is_some()) else {
            return;
        };
        let mut waiting = end.queue.lock();
        if !waiting.closed {
            waiting.commands.pauses.insert(connection, paused);
            drop(waiting);
            end.queue.wake().wake();
        }
    }

    /// Calls `woken` of every loop's handler, and ends the consumer's wait.
    pub fn wake(&self) {
        for end in &self.loops {
            end.woken.store(true, Ordering::Release);
        }
        self.wake_loops();
        self.inbox.wake().wake();
    }

    /// The loops' clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// The name of a loop's thread, or the gate's.
    pub(super) fn thread_name(&self, index: usize) -> String {
        if index < self.loops.len() {
            format!("edge-{index}")
        } else {
            "edge-gate".to_owned()
        }
    }

    /// The thread that has died, if one has.
    pub(super) fn died(&self) -> Option<&ThreadDied> {
        self.died.get()
    }

    /// Why nobody answers.
    pub(super) fn gone(&self) -> io::Error {
        if !self.stopping.load(Ordering::Acquire) {
            // What a thread held goes before it is known to have died.
            let deadline = Instant::now() + GONE;
            self.wait_for(deadline, |_| self.died().is_some());
        }
        match self.died() {
            Some(died) if !self.stopping.load(Ordering::Acquire) => io::Error::other(died.clone()),
            _ => io::Error::new(io::ErrorKind::NotConnected, "the edge has stopped"),
        }
    }

    /// A thread has ended: nobody waits for it any more, nobody asks it for anything.
    pub(super) fn end_thread(&self, index: usize, died: bool) {
        if died {
            let thread = self.thread_name(index);
            let _ = self.died.set(ThreadDied { thread });
            self.untold.store(true, Ordering::Release);
            Counters::add(&self.counters.threads_died, 1);
        }
        let queue = self.loops.get(index).map_or(&self.gate, |end| {
            end.table.close_all();
            &end.queue
        });
        let taken = self.loops.get(index).map_or(0, |end| {
            // Zero but when it has died over them.
            end.taken_charge.swap(0, Ordering::Relaxed)
        });
        let bytes = queue.close() + taken;
        self.outbound_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut all = self.ends.all.lock().unwrap_or_else(PoisonError::into_inner);
        all[index] = true;
        drop(all);
        self.ends.changed.notify_all();
        self.inbox.wake().wake();
    }

    /// Waits until `enough` of the threads have ended, but not longer than until `deadline`.
    fn wait_for(&self, deadline: Instant, enough: impl Fn(&[bool]) -> bool) {
        let mut all = self.ends.all.lock().unwrap_or_else(PoisonError::into_inner);
        while !enough(&all) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.ends.changed.wait_timeout(all, left);
            all = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the threads of `indexes` have ended, but not longer than until `deadline`.
    pub(super) fn wait_for_ends(&self, indexes: std::ops::Range<usize>, deadline: Instant) {
        self.wait_for(deadline, |all| {
            all[indexes.clone()].iter().all(|ended| *ended)
        });
    }

    /// Whether a thread has ended.
    pub(super) fn has_ended(&self, index: usize) -> bool {
        self.ends.all.lock().unwrap_or_else(PoisonError::into_inner)[index]
    }

    /// What the storage of requests has, in the queues and where loops work on them.
    pub(super) fn queue_bytes(&self) -> usize {
        let held = |queue: &Queue| queue.lock().commands.held_bytes();
        let of = |end: &LoopEnd| held(&end.queue) + end.taken_bytes.load(Ordering::Relaxed);
        self.loops.iter().map(of).sum::<usize>() + held(&self.gate)
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &EdgeConfig {
        &self.config
    }

    /// Where the bound of a connection is for packets of this kind, and what happens there.
    pub(super) fn bound_of(&self, kind: u8) -> (usize, AtBound) {
        let bound = self.config.max_outbound_bytes;
        match self.config.outbound_policy {
            OutboundPolicy::Close => (bound, AtBound::Close),
            OutboundPolicy::DropNewest => (bound, AtBound::Drop),
            OutboundPolicy::DropDroppable if self.config.droppable_kinds.has(kind) => {
                (bound / 2, AtBound::Drop)
            }
            OutboundPolicy::DropDroppable => (bound, AtBound::Close),
        }
    }

    /// Charges a whole packet's bytes. Err(true): its connection has to be closed.
    pub(super) fn charge(&self, id: u64, kind: u8, bytes: usize) -> Result<(), bool> {
        let total = self.outbound_bytes.load(Ordering::Relaxed) + bytes;
        if total > self.config.max_outbound_total_bytes {
            Counters::add(&self.counters.refused_full, 1);
            return Err(false);
        }
        let (bound, at_bound) = self.bound_of(kind);
        let charged = match self.loops.get(Place::of(id).owner) {
            Some(end) => end.table.charge(id, bytes, bound, at_bound),
            None => Err(NotCharged::Closed),
        };
        match charged {
            Ok(()) => {
                self.outbound_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(refused) => {
                self.count_refused(refused);
                Err(refused == NotCharged::Full)
            }
        }
    }

    /// Whether the bound depends on a packet's kind.
    pub(super) fn bounds_differ(&self) -> bool {
        self.config.outbound_policy == OutboundPolicy::DropDroppable
    }

    /// Whether so many bytes are likely to fit: then they are charged at once.
    pub(super) fn has_room(&self, id: u64, kind: u8, bytes: usize) -> bool {
        let total = self.outbound_bytes.load(Ordering::Relaxed) + bytes;
        let queued = self
            .loops
            .get(Place::of(id).owner)
            .and_then(|end| end.table.queued(id));
        total <= self.config.max_outbound_total_bytes
            && queued.is_some_and(|queued| queued + bytes <= self.bound_of(kind).0)
    }

    pub(super) fn count_refused(&self, refused: NotCharged) {
        let counter = match refused {
            NotCharged::Closed => &self.counters.refused_closed,
            NotCharged::Full => &self.counters.refused_full,
            NotCharged::Dropped => &self.counters.dropped_policy,
        };
        Counters::add(counter, 1);
    }

    /// Replaces a charge by what is there now.
    pub(super) fn recharge(&self, owner: usize, id: u64, before: usize, after: usize) {
        if before != after {
            self.loops[owner].table.recharge(id, before, after);
            if after > before {
                self.outbound_bytes
                    .fetch_add(after - before, Ordering::Relaxed);
            } else {
                self.outbound_bytes
                    .fetch_sub(before - after, Ordering::Relaxed);
            }
        }
    }

    /// One more connection, if the limit allows it.
    pub(super) fn count_in(&self) -> bool {
        let live = self.live.fetch_add(1, Ordering::AcqRel);
        let fits = live < self.config.max_connections;
        if fits {
            Counters::add(&self.counters.accepted, 1);
        } else {
            self.live.fetch_sub(1, Ordering::AcqRel);
            Counters::add(&self.counters.refused_connections, 1);
        }
        fits
    }

    /// Wakes every loop: the consumer has made room.
    pub(super) fn wake_loops(&self) {
        for end in &self.loops {
            end.queue.wake().wake();
        }
    }
}
