//! What other threads ask of a loop: writes, closes, listeners, the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zmqgame_core::stream::packet::{HEADER_BYTES, Header, PREFIX_BYTES};

use super::connection::HEAD_BYTES;
use super::gate::Incoming;
use super::gate::Port;
use super::handler::Handler;
use super::outgoing::Dial;
use super::udp::UdpListener;
use super::udp_plain::PlainListener;
use crate::wake::Wake;

/// Where who has asked waits; dropped without an answer when the loop ends.
pub(super) type Answer<T> = SyncSender<std::io::Result<T>>;

/// Requests that may wait for one loop before writes are refused: packets are bounded by their bytes, and
/// these are what the smallest of them cost beside. All other requests are bounded by who makes them: one a
/// connection, or one a thread that waits for the answer.
pub(super) const MOST_COMMANDS: usize = 1 << 20;
/// Storage beyond this is given back to the system: a burst is no reason to keep it.
const SPARE_BYTES: usize = 4 << 20;

/// One request.
#[derive(Debug)]
pub(super) enum Command {
    /// The next `bytes` of the arena are packets (prefix, header, payload) for this connection.
    Write {
        /// The connection.
        id: u64,
        /// How many bytes.
        bytes: usize,
    },
    /// Close it after what was written before.
    Close {
        /// The connection.
        id: u64,
        /// What its client and the consumer are told.
        reason: String,
    },
    /// Close it at once: its outbound bound was reached.
    Full {
        /// The connection.
        id: u64,
    },
    /// Take connections in here: for the gate.
    Listen(Box<Port>, Answer<()>),
    /// Take UDP sessions in here.
    ListenUdp(Box<UdpListener>, Answer<()>),
    /// Take plain datagrams in here.
    ListenUdpPlain(PlainListener, Answer<()>),
    /// Take plain datagrams of this address no more.
    ForgetUdpPlain(SocketAddr),
    /// A connection that the gate took in.
    Adopt(Box<Incoming>),
    /// Make a connection, and tell its id.
    Connect(Box<Dial>, Answer<u64>),
    /// Batches go to this handler from now on, or to the inbox; then say so.
    Handle(Option<Box<dyn Handler>>, Answer<()>),
    /// Send what is queued, close everything, end.
    Stop {
        /// Until when that may take, in milliseconds of the loops' clock.
        until_ms: u64,
    },
}

/// Prefix and header of a packet.
pub(super) fn head_of(header: Header, payload: usize) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let length = (HEADER_BYTES + payload) as u32;
    head[..PREFIX_BYTES].copy_from_slice(&length.to_le_bytes());
    head[PREFIX_BYTES] = header.kind;
    head[HEAD_BYTES - 8..].copy_from_slice(&header.sequence.to_le_bytes());
    head
}

/// Takes packets apart that stand one after the other, each with prefix, header and payload.
pub(super) fn packets_of(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (prefix, _) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
        let end = PREFIX_BYTES + u32::from_le_bytes(*prefix) as usize;
        let (packet, rest) = bytes.split_at_checked(end)?;
        bytes = rest;
        Some(packet)
    })
}

/// Requests in order; packets stand in one arena.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// The requests.
    pub list: Vec<Command>,
    /// The packets of the writes, one after the other.
    pub arena: Vec<u8>,
    /// Connections that are to be read no more (true) or again: the last word for each.
    pub pauses: BTreeMap<u64, bool>,
}

impl Commands {
    /// Forgets what was done, and gives storage back that only a burst needed.
    pub fn clear(&mut self) {
        self.list.clear();
        self.arena.clear();
        self.pauses.clear();
        if self.held_bytes() > SPARE_BYTES {
            self.arena.shrink_to(SPARE_BYTES / 2);
            self.list.shrink_to(SPARE_BYTES / 2 / size_of::<Command>());
        }
    }

    /// What its storage has.
    pub fn held_bytes(&self) -> usize {
        let list = self.list.capacity() * size_of::<Command>();
        self.arena.capacity() + list + self.pauses.len() * PAUSE_BYTES
    }

    /// Puts a packet whose payload, of so many bytes, is in parts at the arena's end; its command is to follow.
    #[inline(always)]
    pub fn put(&mut self, header: Header, payload: usize, parts: &[&[u8]]) {
        self.arena.reserve(HEAD_BYTES + payload);
        self.arena.extend_from_slice(&head_of(header, payload));
        for part in parts {
            self.arena.extend_from_slice(part);
        }
    }
}

/// What one pause costs, with its share of the tree.
const PAUSE_BYTES: usize = 32;

/// The queue of one loop.
#[derive(Debug)]
pub(super) struct Queue {
    commands: Mutex<Waiting>,
    wake: Wake,
}

/// What waits in a queue.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub commands: Commands,
    /// Whether nobody takes anything out any more.
    pub closed: bool,
}

impl Queue {
    /// An empty queue.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            commands: Mutex::default(),
            wake: Wake::new()?,
        })
    }

    /// For several requests at once; call `wake` after.
    pub fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request; it comes back when nobody will take it.
    pub fn push(&self, command: Command) -> Result<(), Command> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(command);
        }
        waiting.commands.list.push(command);
        drop(waiting);
        self.wake.wake();
        Ok(())
    }

    /// Takes nothing any more; who waits for an answer gets none. Gives how many bytes of packets were in it.
    pub fn close(&self) -> usize {
        let mut waiting = self.lock();
        waiting.closed = true;
        let rest = std::mem::take(&mut waiting.commands);
        // What is dropped may hold much, and answers somebody.
        drop(waiting);
        rest.arena.len()
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The loop's descriptor.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Puts the requests into `taken`, which is empty, and its storage in their place.
    pub fn take(&self, taken: &mut Commands) {
        std::mem::swap(&mut self.lock().commands, taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_queue_gives_requests_back_and_drops_what_waits() {
        let queue = Queue::new().unwrap();
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let dial = || {
            Box::new(Dial::unix(
                std::path::Path::new("x"),
                super::super::config::Framing::Raw,
            ))
        };
        assert!(queue.push(Command::Connect(dial(), answer)).is_ok());
        assert_eq!(queue.close(), 0);
        assert!(answered.recv().is_err(), "who waits is told");
        let (answer, _answered) = std::sync::mpsc::sync_channel(1);
        assert!(queue.push(Command::Connect(dial(), answer)).is_err());
        assert!(queue.is_closed());
    }

    #[test]
    fn storage_of_a_burst_is_given_back() {
        let mut commands = Commands::default();
        let header = Header {
            kind: 0,
            sequence: 0,
        };
        let payload = vec![0; SPARE_BYTES];
        commands.put(header, 2 * SPARE_BYTES, &[&payload, &payload]);
        for id in 0..200_000 {
            commands.list.push(Command::Full { id });
            commands.pauses.insert(id, true);
        }
        assert!(commands.held_bytes() > 3 * SPARE_BYTES);
        commands.clear();
        assert!(commands.held_bytes() <= SPARE_BYTES);
    }
}
