//! How a loop's connections end: closed by one of both sides, by a stop, or because the loop itself ends.
//!
//! ```text
//!   open --- the client ends its half, rows go to a consumer ---> told, still writable
//!    |                                                             | answered, or ANSWER_MS over
//!    \--- any other end ---> told, closing <-----------------------/
//!                             \--- flushed and the client has ended, or LINGER_MS over ---> gone
//! ```

use std::sync::atomic::Ordering;

use zmqgame_core::stream::packet::{Header, KIND_CLOSE};

use super::config::{ANSWER_MS, LINGER_MS};
use super::connection::Connection;
use super::counters::Counters;
use super::event_loop::{EventLoop, STOP};
use super::reason::CloseReason;
use super::table::Place;
use crate::reactor::Token;

impl EventLoop {
    pub(super) fn close(&mut self, id: u64, reason: CloseReason) {
        if let Some(connection) = self.take(id) {
            self.end(connection, reason);
        } else {
            self.close_session(id, &reason);
        }
    }

    /// Tells the consumer; then lets it go at once, or after its last bytes.
    pub(super) fn end(&mut self, mut connection: Box<Connection>, reason: CloseReason) {
        if !connection.is_closing() {
            self.tell(&mut connection, &reason);
            self.shared.loops[self.index].table.close(connection.id);
            let now_ms = self.now_ms();
            let until_ms = self
                .stop_at_ms
                .map_or(now_ms + LINGER_MS, |stop_ms| stop_ms.max(now_ms));
            connection.start_closing(&reason, until_ms);
            self.reactor.set_timer(Token(connection.id), until_ms);
        }
        // Also the answer to a client's close frame goes out here; what does not fit is dropped.
        let flushed = connection.flush(&self.shared.counters);
        // Who has ended only its own half still gets what was sent before; with others we wait for theirs.
        let waits = if connection.at_end {
            connection.wants_write() && (reason == CloseReason::Peer || reason.is_graceful())
        } else {
            reason.is_graceful()
        };
        if flushed.is_ok() && waits {
            self.put(connection);
        } else {
            self.release(connection);
        }
    }

    /// Makes the close row and counts, once.
    fn tell(&mut self, connection: &mut Connection, reason: &CloseReason) {
        if std::mem::replace(&mut connection.told, true) {
            return;
        }
        reason.count(&self.shared.counters);
        if connection.opened || connection.outgoing {
            self.push_close(connection.id, reason);
        }
        if connection.opened {
            Counters::add(&self.shared.counters.closed, 1);
        }
    }

    fn push_close(&mut self, id: u64, reason: &CloseReason) {
        let header = Header {
            kind: KIND_CLOSE,
            sequence: 0,
        };
        self.batch.push(id, header, reason.to_string().as_bytes());
    }

    /// Ends those whose other side has ended; with a handler, which has answered what came before.
    pub(super) fn end_ended(&mut self) {
        for id in std::mem::take(&mut self.to_end) {
            self.close(id, CloseReason::Peer);
        }
    }

    /// Tells the consumer of those whose other side has ended. Who is still to be answered can be written
    /// to until the consumer has handled the batch, whose number is not known before it is published.
    pub(super) fn tell_ended(&mut self) -> Vec<u64> {
        let mut told = std::mem::take(&mut self.to_end);
        told.retain(|&id| {
            let Some(mut connection) = self.take(id) else {
                return false;
            };
            if !connection.can_be_answered() {
                self.end(connection, CloseReason::Peer);
                return false;
            }
            self.tell(&mut connection, &CloseReason::Peer);
            let until_ms = self.now_ms() + ANSWER_MS;
            connection.answer_until_ms = Some(until_ms);
            connection.timer = true;
            self.reactor.set_timer(Token(id), until_ms);
            self.put(connection);
            true
        });
        told
    }

    /// Ends those whose last batch the consumer has handled; `handled` was read before the commands were
    /// taken, so that its answers are in the buffers.
    pub(super) fn end_answered(&mut self, handled: u64) {
        while self
            .answering
            .front()
            .is_some_and(|front| front.1 <= handled)
        {
            if let Some((id, _)) = self.answering.pop_front() {
                self.close(id, CloseReason::Peer);
            }
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

    /// Closes all; at `until_ms` the loop ends whatever is left then.
    pub(super) fn stop(&mut self, until_ms: u64) {
        self.with_handler(|handler, out| handler.shutdown(out));
        self.stop_at_ms = Some(until_ms);
        self.reactor.set_timer(STOP, until_ms);
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
}

/// After a stop hardly anything is left. After a panic, or when the poll is broken, all connections are:
/// they are closed and counted, and a consumer is told.
impl Drop for EventLoop {
    fn drop(&mut self) {
        let reason = match self.stop_at_ms {
            Some(_) => CloseReason::Stopped,
            None => CloseReason::Died,
        };
        let left = std::mem::take(&mut self.connections);
        for mut connection in left.into_iter().flatten() {
            self.tell(&mut connection, &reason);
            let charged = connection.charged;
            let bytes = &self.shared.outbound_bytes;
            bytes.fetch_sub(charged, Ordering::Relaxed);
        }
        for id in self.udp.ids() {
            self.push_close(id, &reason);
            Counters::add(&self.shared.counters.closed, 1);
        }
        let index = self.index;
        let mut peers = self.shared.peers();
        peers.retain(|&id, _| Place::of(id).owner != index);
        drop(peers);
        if !self.native {
            self.shared.inbox.publish(&mut self.batch, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::super::admission::Admission;
    use super::super::config::{EdgeConfig, Framing};
    use super::super::gate::Incoming;
    use super::super::line::Line;
    use super::super::shared::Shared;
    use super::*;
    use crate::listener::Peer;
    use crate::stream::Stream;

    #[test]
    fn a_loop_that_dies_tells_the_consumer_of_each_of_its_connections() {
        let shared = Arc::new(Shared::new(EdgeConfig::default()).unwrap());
        let mut event_loop = EventLoop::new(0, Arc::clone(&shared), None).unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let (stream, client) = UnixStream::pair().unwrap();
            stream.set_nonblocking(true).unwrap();
            clients.push(client);
            event_loop.adopt(Incoming {
                line: Line::new(Stream::Unix(stream), None),
                peer: Peer::ProxiedUnix,
                framing: Framing::Raw,
                admission: Admission::new(&shared).unwrap(),
                since_ms: 0,
            });
        }
        drop(event_loop);
        shared.end_thread(0, true);
        let (batch, _) = shared.inbox.take();
        let closes = (0..batch.len()).filter(|&row| batch.kind[row] == KIND_CLOSE);
        let reasons: Vec<_> = closes.map(|row| batch.payload(row).to_vec()).collect();
        assert_eq!(
            reasons,
            vec![b"the thread that served it has died".to_vec(); 3]
        );
        assert_eq!(shared.live.load(Ordering::Relaxed), 0);
        assert_eq!(shared.memory_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(shared.counters.closed.load(Ordering::Relaxed), 3);
        assert!(shared.peers().is_empty());
        assert!(shared.gone().to_string().contains("edge-0 has died"));
        drop(clients);
    }
}
