//! What other threads ask of a loop: writes, closes, listeners, the end.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zmqgame_core::stream::packet::{self, Header};

use super::config::Framing;
use super::udp::UdpListener;
use super::udp_plain::PlainListener;
use crate::listener::Listener;
use crate::stream::Stream;
use crate::wake::Wake;

/// One request.
#[derive(Debug)]
pub enum Command {
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
    /// Take connections in here.
    Listen(Listener, Framing),
    /// Take UDP sessions in here.
    ListenUdp(Box<UdpListener>),
    /// Take plain datagrams in here.
    ListenUdpPlain(PlainListener),
    /// A connection that another loop took in.
    Adopt(Stream, String, Framing),
    /// Send what is queued, close everything, end.
    Stop {
        /// How long that may take.
        drain_ms: u64,
    },
}

/// Requests in order; packets stand in one arena.
#[derive(Debug, Default)]
pub struct Commands {
    /// The requests.
    pub list: Vec<Command>,
    /// The packets of the writes, one after the other.
    pub arena: Vec<u8>,
}

impl Commands {
    /// Adds a packet.
    pub fn write(&mut self, id: u64, header: Header, payload: &[u8]) {
        let start = self.arena.len();
        packet::write_packet(&mut self.arena, header, payload);
        self.list.push(Command::Write {
            id,
            bytes: self.arena.len() - start,
        });
    }
}

/// The queue of one loop.
#[derive(Debug)]
pub struct Queue {
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
