//! What the handle and the loops of one edge share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zmqgame_core::stream::packet::{HEADER_BYTES, Header, PREFIX_BYTES};

use super::command::{Command, Commands, Queue};
use super::config::EdgeConfig;
use super::counters::Counters;
use super::inbox::Inbox;
use super::table::{NotCharged, Place, Table};

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

/// What one loop shows to others.
#[derive(Debug)]
pub(super) struct LoopEnd {
    pub(super) table: Table,
    pub(super) queue: Queue,
}

/// What the handle and the loops of one edge share.
#[derive(Debug)]
pub struct Shared {
    pub(super) config: EdgeConfig,
    pub(super) counters: Counters,
    pub(super) inbox: Inbox,
    pub(super) loops: Vec<LoopEnd>,
    /// Connections that are taken in, closing ones included.
    pub(super) live: AtomicUsize,
    /// Bytes charged to all connections.
    pub(super) outbound_bytes: AtomicUsize,
    pub(super) stopping: AtomicBool,
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
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            inbox: Inbox::new(config.max_inbound_bytes)?,
            loops,
            config,
            counters: Counters::default(),
            live: AtomicUsize::new(0),
            outbound_bytes: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            peers: Mutex::default(),
        })
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues packets and wakes the loops that have some. Gives how many were refused: their
    /// connection is closed, or its bound or that of all is reached (its own: it gets closed).
    pub fn send<'a>(&self, writes: impl IntoIterator<Item = Write<'a>>) -> usize {
        let mut refused = 0;
        let mut sent = 0;
        let mut current: Option<(usize, MutexGuard<'_, Commands>)> = None;
        for write in writes {
            let owner = Place::of(write.connection).owner;
            let Some(end) = self.loops.get(owner) else {
                Counters::add(&self.counters.refused_closed, 1);
                refused += 1;
                continue;
            };
            if current.as_ref().is_none_or(|(index, _)| *index != owner) {
                // The lock held goes first: two threads must not wait for each other's.
                if let Some((index, guard)) = current.take() {
                    drop(guard);
                    self.loops[index].queue.wake().wake();
                }
                current = Some((owner, end.queue.lock()));
            }
            if let Some((_, commands)) = &mut current {
                match self.charge(end, &write) {
                    Ok(()) => {
                        let header = Header {
                            kind: write.kind,
                            sequence: write.sequence,
                        };
                        commands.write(write.connection, header, write.payload);
                        sent += 1;
                    }
                    Err(full) => {
                        refused += 1;
                        if full {
                            commands.list.push(Command::Full {
                                id: write.connection,
                            });
                        }
                    }
                }
            }
        }
        if let Some((index, guard)) = current {
            drop(guard);
            self.loops[index].queue.wake().wake();
        }
        Counters::add(&self.counters.packets_out, sent);
        refused
    }

    /// Err(true): the connection's own bound, so it has to be closed.
    fn charge(&self, end: &LoopEnd, write: &Write<'_>) -> Result<(), bool> {
        let bytes = PREFIX_BYTES + HEADER_BYTES + write.payload.len();
        let total = self.outbound_bytes.load(Ordering::Relaxed) + bytes;
        if total > self.config.max_outbound_total_bytes {
            Counters::add(&self.counters.refused_full, 1);
            return Err(false);
        }
        match end
            .table
            .charge(write.connection, bytes, self.config.max_outbound_bytes)
        {
            Ok(()) => {
                self.outbound_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(NotCharged::Closed) => {
                Counters::add(&self.counters.refused_closed, 1);
                Err(false)
            }
            Err(NotCharged::Full) => {
                Counters::add(&self.counters.refused_full, 1);
                Err(true)
            }
        }
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

    /// Wakes every loop: the consumer has made room.
    pub(super) fn wake_loops(&self) {
        for end in &self.loops {
            end.queue.wake().wake();
        }
    }
}
