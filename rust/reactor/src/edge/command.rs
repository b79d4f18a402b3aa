//! What other threads ask of a loop: writes, closes, listeners, the end.

use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zmqgame_core::stream::packet::{HEADER_BYTES, Header, PREFIX_BYTES};

use super::connection::{HEAD_BYTES, Incoming};
use super::gate::Port;
use super::handler::Handler;
use super::outgoing::Dial;
use super::udp::UdpListener;
use super::udp_plain::PlainListener;
use crate::wake::Wake;

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
    Listen(Box<Port>),
    /// Take UDP sessions in here.
    ListenUdp(Box<UdpListener>),
    /// Take plain datagrams in here.
    ListenUdpPlain(PlainListener),
    /// A connection that the gate took in.
    Adopt(Box<Incoming>),
    /// Make a connection, and tell its id.
    Connect(Box<Dial>, SyncSender<std::io::Result<u64>>),
    /// Batches go to this handler from now on, or to the inbox; then say so.
    Handle(Option<Box<dyn Handler>>, SyncSender<()>),
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
}

impl Commands {
    /// Puts a packet whose payload is in parts at the arena's end; its command is to follow.
    pub fn put(&mut self, header: Header, parts: &[&[u8]]) {
        let payload = parts.iter().map(|part| part.len()).sum();
        self.arena.reserve(HEAD_BYTES + payload);
        self.arena.extend_from_slice(&head_of(header, payload));
        for part in parts {
            self.arena.extend_from_slice(part);
        }
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
