//! How bytes come in and go out of a loop's connections: each gets a bounded turn a round.

use std::sync::atomic::Ordering;

use super::command::packets_of;
use super::config::ROUND_BYTES;
use super::connection::{Connection, Turn};
use super::event_loop::EventLoop;
use super::reason::CloseReason;
use crate::reactor::{Ready, Token};

impl EventLoop {
    /// Sets its next deadline.
    pub(super) fn look_at_time(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let next_ms = connection.check_time(
            &self.shared.config,
            self.now_ms(),
            self.shared.inbox.is_full(),
        )?;
        connection.timer = next_ms.is_some();
        if let Some(next_ms) = next_ms {
            self.reactor.set_timer(Token(connection.id), next_ms);
        }
        self.count_memory(connection)
    }

    pub(super) fn handle_socket(&mut self, event: Ready) {
        let Some(mut connection) = self.take(event.token.0) else {
            return;
        };
        let ends = (event.ended || event.hangup) && !connection.ended;
        connection.ended |= ends;
        if self.targets.contains_key(&connection.id) && !connection.is_closing() {
            if event.writable {
                match self.go_on(&mut connection) {
                    Ok(()) => self.count_connected(&connection),
                    Err(reason) => return self.end(connection, reason),
                }
            }
            self.want_read(&mut connection);
            self.want_write(&mut connection);
            return self.put(connection);
        }
        if event.hangup && connection.answer_until_ms.is_some() {
            return self.end(connection, CloseReason::Peer);
        }
        // What a Unix socket's client sent before it went can still be read.
        connection.gone |= event.hangup && connection.line.is_tcp();
        if ends && connection.paused {
            return self.wait_for_resume(connection);
        }
        if event.readable {
            self.want_read(&mut connection);
        }
        if event.writable {
            self.want_write(&mut connection);
        }
        self.put(connection);
    }

    fn count_connected(&self, connection: &Connection) {
        if !self.targets.contains_key(&connection.id) {
            self.count_connect();
        }
    }

    #[inline]
    pub(super) fn want_read(&mut self, connection: &mut Connection) {
        if !connection.may_read() {
            connection.unread = true;
        } else if !connection.queued_read {
            connection.queued_read = true;
            self.to_read.push_back(connection.id);
        }
    }

    pub(super) fn read_all(&mut self) {
        for _ in 0..self.to_read.len() {
            if self.batch.arena.len() > ROUND_BYTES {
                break;
            }
            let Some(id) = self.to_read.pop_front() else {
                break;
            };
            let Some(mut connection) = self.take(id) else {
                continue;
            };
            connection.queued_read = false;
            if connection.may_read() {
                self.read_one(connection);
            } else {
                connection.unread = true;
                self.put(connection);
            }
        }
    }

    fn read_one(&mut self, mut connection: Box<Connection>) {
        connection.unread = false;
        let read = connection.read(&mut self.context());
        match read.and_then(|turn| self.count_memory(&mut connection).map(|()| turn)) {
            Ok(turn) => {
                match turn {
                    Turn::Done => {}
                    Turn::More => self.want_read(&mut connection),
                    Turn::Throttled => connection.unread = true,
                }
                let timely = !connection.timer && connection.has_storage();
                // A closing one has its deadline already.
                if (turn == Turn::Throttled || timely)
                    && !connection.is_closing()
                    && let Err(reason) = self.look_at_time(&mut connection)
                {
                    return self.end(connection, reason);
                }
                self.want_write(&mut connection);
                self.put(connection);
            }
            Err(reason) if connection.is_closing() && !reason.is_graceful() => {
                // Only its half: what waits still goes out.
                if reason == CloseReason::Peer && connection.wants_write() {
                    connection.at_end = true;
                    self.put(connection);
                } else {
                    self.release(connection);
                }
            }
            Err(CloseReason::Peer) => {
                connection.at_end = true;
                self.to_end.push(connection.id);
                self.put(connection);
            }
            Err(reason) => self.end(connection, reason),
        }
    }

    #[inline]
    pub(super) fn want_write(&mut self, connection: &mut Connection) {
        if !connection.queued_write && connection.wants_write() {
            connection.queued_write = true;
            self.to_write.push(connection.id);
        }
    }

    pub(super) fn write_all(&mut self) {
        let mut ids = std::mem::take(&mut self.to_write);
        for id in ids.drain(..) {
            let Some(mut connection) = self.take(id) else {
                continue;
            };
            connection.queued_write = false;
            match connection.flush(&self.shared.counters) {
                Ok(())
                    if connection.is_closing()
                        && connection.at_end
                        && !connection.wants_write() =>
                {
                    self.release(connection);
                }
                Ok(()) => {
                    self.recharge(&mut connection, 0);
                    if !connection.timer && !connection.is_closing() {
                        // Its buffer is to be given back some time.
                        let _ = self.look_at_time(&mut connection);
                    }
                    self.put(connection);
                }
                Err(reason) => self.end(connection, reason),
            }
        }
        self.uncharged = 0;
        // Nothing was added meanwhile but by an end, whose connections are gone.
        if self.to_write.is_empty() {
            self.to_write = ids;
        }
    }

    /// Charges what is queued in place of what was, and of `extra` bytes that were charged on sending.
    fn recharge(&self, connection: &mut Connection, extra: usize) {
        let queued = connection.outbound.len();
        self.shared.recharge(
            self.index,
            connection.id,
            connection.charged + extra,
            queued,
        );
        connection.charged = queued;
    }

    pub(super) fn write(&mut self, id: u64, packets: &[u8]) {
        if self.udp.has(id) {
            for packet in packets_of(packets) {
                self.write_session(id, packet);
            }
            return;
        }
        let taken = self.take(id);
        let Some(mut connection) = taken else {
            let bytes = packets.len();
            self.shared
                .outbound_bytes
                .fetch_sub(bytes, Ordering::Relaxed);
            return;
        };
        let written = if connection.is_closing() {
            Ok(())
        } else {
            connection.write_packets(packets)
        };
        self.recharge(&mut connection, packets.len());
        self.after_write(connection, written);
    }

    pub(super) fn pause(&mut self, id: u64, paused: bool) {
        let Some(mut connection) = self.take(id) else {
            return self.udp.pause(id, paused);
        };
        connection.paused = paused;
        if paused && connection.ended {
            return self.wait_for_resume(connection);
        }
        if !paused {
            self.want_read(&mut connection);
        }
        self.put(connection);
    }

    /// Its client has ended while it is not read: what it sent waits as long as a silent client may.
    fn wait_for_resume(&mut self, mut connection: Box<Connection>) {
        self.want_read(&mut connection);
        connection.begin_wait(self.now_ms());
        match self.look_at_time(&mut connection) {
            Ok(()) => self.put(connection),
            Err(reason) => self.end(connection, reason),
        }
    }
}
