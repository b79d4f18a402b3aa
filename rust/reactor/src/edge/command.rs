//! What other threads ask of a loop: writes, closes, listeners, the end.

use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zmqgame_core::stream::packet::{HEADER_BYTES, Header, PREFIX_BYTES};

use super::connection::{HEAD_BYTES, Incoming};
use super::gate::Port;
use super::outgoing::Dial;
use super::udp::UdpListener;
use super::udp_plain::PlainListener;
use crate::wake::Wake;

/// One request.
#[derive(Debug)]
pub(super) enum Command {
    /// The next `bytes` of the arena are a packet (prefix, header, payload) for this connection.
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
    Listen(Box<Port>),
    /// Take UDP sessions in here.
    ListenUdp(Box<UdpListener>),
    /// Take plain datagrams in here.
    ListenUdpPlain(PlainListener),
    /// A connection that the gate took in.
    Adopt(Box<Incoming>),
    /// Make a connection, and tell its id.
    Connect(Box<Dial>, SyncSender<std::io::Result<u64>>),
    /// Read a connection no more, or again.
    Pause {
        /// The connection.
        id: u64,
        /// No more, or again.
        paused: bool,
    },
    /// Send what is queued, close everything, end.
    Stop {
        /// How long that may take.
        drain_ms: u64,
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

/// Requests in order; packets stand in one arena.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// The requests.
    pub list: Vec<Command>,
    /// The packets of the writes, one after the other.
    pub arena: Vec<u8>,
}

impl Commands {
    /// Adds a packet whose payload is in parts.
    pub fn write(&mut self, id: u64, header: Header, parts: &[&[u8]]) {
        let start = self.arena.len();
        let payload = parts.iter().map(|part| part.len()).sum();
        self.arena.extend_from_slice(&head_of(header, payload));
        for part in parts {
            self.arena.extend_from_slice(part);
        }
        self.list.push(Command::Write {
            id,
            bytes: self.arena.len() - start,
        });
    }
}

/// The queue of one loop.
#[derive(Debug)]
pub(super) struct Queue {
    commands: Mutex<Commands>,
    wake: Wake,
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
    pub fn lock(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request.
    pub fn push(&self, command: Command) {
        self.lock().list.push(command);
        self.wake.wake();
    }

    /// The loop's descriptor.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Puts the requests into `taken`, which is empty, and its storage in their place.
    pub fn take(&self, taken: &mut Commands) {
        std::mem::swap(&mut *self.lock(), taken);
    }
}
