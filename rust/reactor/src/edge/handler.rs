//! Handlers in Rust: on the loop's own thread, without a queue between.

use zmqgame_core::stream::packet::{Batch, Header, KIND_CLOSE, KIND_OPEN};

use super::event_loop::EventLoop;
use super::outgoing::Dial;
use super::shared::{Shared, Write};

/// Handles what happens on one loop; each loop has one of its own. Only `traffic` or `handle` need to be
/// written. It must not block: the loop's other connections wait meanwhile.
pub trait Handler: Send {
    /// The loop has started. Gives after how many milliseconds the first tick is, if one is wanted.
    fn boot(&mut self, _out: &mut Out<'_>) -> Option<u64> {
        None
    }

    /// Takes a batch by calling `handle`. A handler that keeps its storage leaves another one in its place.
    fn take(&mut self, batch: &mut Batch, out: &mut Out<'_>) {
        self.handle(batch, out);
    }

    /// Takes a batch, opens and closes included. By itself it calls `open`, `traffic` and `close` for each
    /// row; a handler that has to be fast reads the columns.
    fn handle(&mut self, batch: &Batch, out: &mut Out<'_>) {
        for row in 0..batch.len() {
            let (connection, payload) = (batch.connection[row], batch.payload(row));
            let (kind, sequence) = (batch.kind[row], batch.sequence[row]);
            match kind {
                KIND_OPEN => self.open(connection, &String::from_utf8_lossy(payload), out),
                KIND_CLOSE => self.close(connection, &String::from_utf8_lossy(payload), out),
                _ => self.traffic(connection, Header { kind, sequence }, payload, out),
            }
        }
    }

    /// A connection has opened; how, as JSON.
    fn open(&mut self, _connection: u64, _how: &str, _out: &mut Out<'_>) {}

    /// A packet has come.
    fn traffic(&mut self, _connection: u64, _header: Header, _payload: &[u8], _out: &mut Out<'_>) {}

    /// A connection has closed, or could not be made; why.
    fn close(&mut self, _connection: u64, _reason: &str, _out: &mut Out<'_>) {}

    /// Its time has come, in milliseconds since the edge's start. Gives after how many more the next tick is.
    fn tick(&mut self, _now_ms: u64, _out: &mut Out<'_>) -> Option<u64> {
        None
    }

    /// Another thread has called `wake`.
    fn woken(&mut self, _out: &mut Out<'_>) {}

    /// The edge stops: what is sent now still goes out, if the deadline allows it.
    fn shutdown(&mut self, _out: &mut Out<'_>) {}
}

impl std::fmt::Debug for dyn Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

/// What a handler can do. What it sends to its own loop's connections goes straight into their buffers,
/// and out once all of the batch is handled.
pub struct Out<'a> {
    pub(super) event_loop: &'a mut EventLoop,
}

impl Out<'_> {
    /// Sends a packet. Gives whether it was taken: else the connection is closed, or a bound is reached.
    pub fn send(&mut self, write: Write<'_>) -> bool {
        self.send_vectored(write.connection, write.header(), &[write.payload])
    }

    /// Sends packets; gives how many were not taken.
    pub fn send_all<'a>(&mut self, writes: impl IntoIterator<Item = Write<'a>>) -> usize {
        let refused = writes.into_iter().filter(|write| !self.send(*write));
        refused.count()
    }

    /// Sends a packet whose payload is in parts.
    pub fn send_vectored(&mut self, connection: u64, header: Header, parts: &[&[u8]]) -> bool {
        self.event_loop.send(connection, header, parts)
    }

    /// Closes a connection after what was sent before.
    pub fn close(&mut self, connection: u64, reason: &str) {
        self.shared().close(connection, reason);
    }

    /// Reads a connection no more, or again.
    pub fn pause(&mut self, connection: u64, paused: bool) {
        self.shared().pause(connection, paused);
    }

    /// Makes a connection on this loop; its packets come as those of the others.
    ///
    /// # Errors
    /// There are too many connections already, descriptors have run out, or the edge stops.
    pub fn connect(&mut self, dial: Dial) -> std::io::Result<u64> {
        self.event_loop.connect(dial)
    }

    /// Storage of batches that were given back, for [`Handler::take`].
    #[must_use]
    pub fn spare_batch(&self) -> Batch {
        self.shared().inbox.spare_batch()
    }

    /// Leaves a batch to whoever comes after this handler, in the edge's inbox.
    pub fn leave(&self, batch: &mut Batch) {
        self.shared().inbox.publish(batch, false);
    }

    /// The loop's number.
    #[must_use]
    pub fn loop_index(&self) -> usize {
        self.event_loop.index
    }

    /// What other threads and loops share.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.event_loop.shared
    }
}
