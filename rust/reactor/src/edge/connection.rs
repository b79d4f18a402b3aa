//! One stream connection: what it has read, what waits to be written, how it ends.
//!
//! ```text
//!   Unknown --- 4 bytes ---> Packets                  Open --- close() ---> Closing --- flushed,
//!      \---- "GET " ----> Request ---> WebSocket                 client closed too, or LINGER_MS ---> gone
//!   Raw from the begin
//! ```
//!
//! Bytes are read straight into the batch's arena; only what is no whole packet yet is kept in the
//! `inbound` ring. Edge-triggered: whoever reads goes on until the socket is empty.

use std::io;
use std::os::fd::AsFd;

use zmqgame_core::stream::packet::{Batch, HEADER_BYTES, Header, KIND_OPEN, PREFIX_BYTES};
use zmqgame_core::stream::ring::RingBuffer;

use super::config::{EdgeConfig, Framing, OWN_ANSWERS_BYTES, QUIET_MS};
use super::counters::Counters;
use super::reason::CloseReason;
use super::websocket::{self, WebSocket};
use crate::stream::Stream;

/// Room for one read.
const READ_BYTES: usize = 16_384;
/// Reads of one connection before the next one's turn.
const READS_A_TURN: usize = 4;
/// A packet of which at least this much is there is completed in the ring: moving it would cost more.
const STAY_IN_RING_BYTES: usize = 4_096;

/// What the loop lends to a connection.
pub(super) struct Context<'a> {
    pub(super) config: &'a EdgeConfig,
    pub(super) counters: &'a Counters,
    pub(super) batch: &'a mut Batch,
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) now_ms: u64,
}

enum Protocol {
    Unknown,
    Request { seen: usize },
    Packets,
    Raw,
    WebSocket(Box<WebSocket>),
}

/// How one read ended.
enum Got {
    Bytes { count: usize, more: bool },
    Empty,
}

/// One connection of a loop.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) peer: String,
    stream: Stream,
    protocol: Protocol,
    inbound: RingBuffer,
    pub(super) outbound: RingBuffer,
    /// What the table has charged for the bytes in `outbound`.
    pub(super) charged: usize,
    /// Whether the consumer knows it.
    pub(super) opened: bool,
    /// When the last whole packet came, or the connection.
    last_ms: u64,
    /// Whether a whole packet (WebSocket: the request) has come.
    spoken: bool,
    /// Whether it stands in the loop's list of connections to read.
    pub(super) queued_read: bool,
    /// Whether it stands in the loop's list of connections to write.
    pub(super) queued_write: bool,
    /// The other side has sent its end: reads go on until they see it.
    pub(super) ended: bool,
    /// Since when it is closing, until when it may.
    pub(super) closing_until_ms: Option<u64>,
    shut: bool,
}

impl Connection {
    pub(super) fn new(
        id: u64,
        stream: Stream,
        peer: String,
        framing: Framing,
        config: &EdgeConfig,
        now_ms: u64,
    ) -> Self {
        let inbound = config
            .max_packet_bytes
            .max(super::config::REQUEST_HEAD_BYTES);
        Self {
            id,
            peer,
            stream,
            protocol: match framing {
                Framing::Packets => Protocol::Unknown,
                Framing::Raw => Protocol::Raw,
            },
            inbound: RingBuffer::new(inbound + PREFIX_BYTES + READ_BYTES),
            outbound: RingBuffer::new(config.max_outbound_bytes + OWN_ANSWERS_BYTES),
            charged: 0,
            opened: false,
            last_ms: now_ms,
            // A raw protocol's server may be the one that speaks first.
            spoken: framing == Framing::Raw,
            queued_read: false,
            queued_write: false,
            ended: false,
            closing_until_ms: None,
            shut: false,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Tells the consumer.
    pub(super) fn open(&mut self, transport: &str, cx: &mut Context<'_>) {
        self.opened = true;
        Counters::add(&cx.counters.opened, 1);
        let peer = self.peer.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("{{\"transport\":\"{transport}\",\"peer\":\"{peer}\"}}");
        cx.batch.push(
            self.id,
            Header {
                kind: KIND_OPEN,
                sequence: 0,
            },
            text.as_bytes(),
        );
    }

    /// Reads what there is, for one turn. Gives whether there may be more.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        for _ in 0..READS_A_TURN {
            let got = if self.closing_until_ms.is_some() {
                cx.scratch.clear();
                self.read_into_scratch(cx)?
            } else {
                self.read_once(cx)?
            };
            match got {
                Got::Empty => return Ok(false),
                Got::Bytes { more: false, .. } if !self.ended => return Ok(false),
                Got::Bytes { .. } => {}
            }
        }
        Ok(true)
    }

    fn read_once(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        match &self.protocol {
            Protocol::Raw => self.read_raw(cx),
            Protocol::Packets if self.inbound.len() >= STAY_IN_RING_BYTES => self.read_large(cx),
            Protocol::Packets => self.read_packets(cx),
            Protocol::Unknown | Protocol::Request { .. } => {
                let got = self.read_into_scratch(cx)?;
                self.keep(cx.scratch)?;
                self.recognise(cx)?;
                Ok(got)
            }
            Protocol::WebSocket(_) => {
                let got = self.read_into_scratch(cx)?;
                let bytes = std::mem::take(cx.scratch);
                let fed = self.feed_websocket(&bytes, cx);
                *cx.scratch = bytes;
                fed?;
                Ok(got)
            }
        }
    }

    fn read_into_scratch(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        cx.scratch.clear();
        let got = read_some(&self.stream, cx.scratch)?;
        count_bytes(&got, cx.counters);
        Ok(got)
    }

    fn read_raw(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        let start = cx.batch.arena.len();
        let got = read_some(&self.stream, &mut cx.batch.arena)?;
        count_bytes(&got, cx.counters);
        if let Got::Bytes { count, .. } = got {
            cx.batch.push_row(
                self.id,
                Header {
                    kind: 0,
                    sequence: 0,
                },
                start as u32,
                count as u32,
            );
            self.count_packets(1, cx);
        }
        Ok(got)
    }

    /// The usual way: behind the bytes that waited, into the arena, decoded in place.
    fn read_packets(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        let start = cx.batch.arena.len();
        for part in self.inbound.readable() {
            cx.batch.arena.extend_from_slice(part);
        }
        let got = match read_some(&self.stream, &mut cx.batch.arena) {
            Ok(Got::Bytes { count, more }) => Got::Bytes { count, more },
            other => {
                cx.batch.arena.truncate(start);
                return other;
            }
        };
        count_bytes(&got, cx.counters);
        self.inbound.clear();
        let decoded = cx
            .batch
            .decode_arena(self.id, start, cx.config.max_packet_bytes);
        let end = start + decoded.consumed;
        let kept = self.inbound.push(&cx.batch.arena[end..]);
        cx.batch.arena.truncate(end);
        self.count_packets(decoded.packets, cx);
        match decoded.error {
            Some(error) => Err(CloseReason::Packet(error)),
            None => kept
                .map_err(|full| CloseReason::Full {
                    limit_bytes: full.limit_bytes,
                })
                .map(|()| got),
        }
    }

    /// A large packet is completed where it is; its length stands in the ring and is in the limit.
    fn read_large(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        let mut prefix = [0; PREFIX_BYTES];
        let [first, second] = self.inbound.readable();
        for (to, from) in prefix.iter_mut().zip(first.iter().chain(second)) {
            *to = *from;
        }
        let total = PREFIX_BYTES + u32::from_le_bytes(prefix) as usize;
        let missing = total.saturating_sub(self.inbound.len());
        let full = |full: zmqgame_core::stream::ring::RingFull| CloseReason::Full {
            limit_bytes: full.limit_bytes,
        };
        self.inbound.reserve(missing).map_err(full)?;
        let [first, second] = self.inbound.spare();
        let split = missing.min(first.len());
        let rest = (missing - split).min(second.len());
        let slices = &mut [
            io::IoSliceMut::new(&mut first[..split]),
            io::IoSliceMut::new(&mut second[..rest]),
        ];
        let got = got_of(rustix::io::readv(self.stream.as_fd(), slices), missing)?;
        count_bytes(&got, cx.counters);
        if let Got::Bytes { count, .. } = got {
            self.inbound.commit(count);
            if count == missing {
                self.decode_inbound(cx)?;
            }
        }
        Ok(got)
    }

    fn decode_inbound(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let limit = cx.config.max_packet_bytes;
        let decoded = cx.batch.decode_ring(self.id, &mut self.inbound, limit);
        self.count_packets(decoded.packets, cx);
        decoded
            .error
            .map_or(Ok(()), |error| Err(CloseReason::Packet(error)))
    }

    fn count_packets(&mut self, packets: usize, cx: &Context<'_>) {
        if packets > 0 {
            self.last_ms = cx.now_ms;
            self.spoken = true;
            Counters::add(&cx.counters.packets_in, packets as u64);
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        let full = |full: zmqgame_core::stream::ring::RingFull| CloseReason::Full {
            limit_bytes: full.limit_bytes,
        };
        self.inbound.push(bytes).map_err(full)
    }

    /// Which protocol is it? A packet can't begin with `GET `: as a length that is over every limit.
    fn recognise(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        if matches!(self.protocol, Protocol::Unknown) {
            let bytes = self.inbound.contiguous();
            let common = bytes.len().min(4);
            if bytes[..common] != b"GET "[..common] {
                self.protocol = Protocol::Packets;
                let transport = match self.stream {
                    Stream::Tcp(_) => "tcp",
                    Stream::Unix(_) => "unix",
                };
                self.open(transport, cx);
                self.decode_inbound(cx)?;
                self.inbound.shrink();
            } else if common == 4 {
                self.protocol = Protocol::Request { seen: 0 };
            }
        }
        if let Protocol::Request { seen } = self.protocol {
            self.read_request(seen, cx)?;
        }
        Ok(())
    }

    fn read_request(&mut self, seen: usize, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let found = websocket::read_request(self.inbound.contiguous(), seen);
        let (answer, size) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.protocol = Protocol::Request {
                    seen: self.inbound.len(),
                };
                return Ok(());
            }
            Err(reason) => {
                let _ = self.outbound.push(websocket::refusal(&reason).as_bytes());
                return Err(reason);
            }
        };
        let full = |full: zmqgame_core::stream::ring::RingFull| CloseReason::Full {
            limit_bytes: full.limit_bytes,
        };
        self.outbound.push(&answer).map_err(full)?;
        self.inbound.consume(size);
        let rest = self.inbound.contiguous().to_vec();
        self.inbound.clear();
        self.inbound.shrink();
        self.protocol = Protocol::WebSocket(Box::new(WebSocket::new(cx.config.max_packet_bytes)));
        Counters::add(&cx.counters.websockets, 1);
        self.last_ms = cx.now_ms;
        self.spoken = true;
        self.open("websocket", cx);
        self.feed_websocket(&rest, cx)
    }

    fn feed_websocket(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let Protocol::WebSocket(websocket) = &mut self.protocol else {
            return Ok(());
        };
        let (id, limit) = (self.id, cx.config.max_packet_bytes);
        let mut packets = 0;
        let fed = websocket.feed(bytes, &mut self.outbound, |message| {
            let header = Header::read(message, limit)?;
            cx.batch.push(id, header, &message[HEADER_BYTES..]);
            packets += 1;
            Ok(())
        });
        self.count_packets(packets, cx);
        if fed? {
            self.last_ms = cx.now_ms;
        }
        Ok(())
    }

    /// Queues a packet: prefix, header, payload.
    pub(super) fn write(&mut self, packet: &[u8]) -> Result<(), CloseReason> {
        let limit_bytes = self.outbound.limit();
        let pushed = match &self.protocol {
            Protocol::WebSocket(websocket) => {
                return websocket.write(&packet[PREFIX_BYTES..], &mut self.outbound);
            }
            Protocol::Packets => self.outbound.push(packet),
            Protocol::Raw => self.outbound.push(&packet[PREFIX_BYTES + HEADER_BYTES..]),
            // The consumer does not know it yet: it has guessed the id.
            Protocol::Unknown | Protocol::Request { .. } => Ok(()),
        };
        pushed.map_err(|_| CloseReason::Full { limit_bytes })
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self, counters: &Counters) -> Result<(), CloseReason> {
        while !self.outbound.is_empty() {
            let [first, second] = self.outbound.readable();
            let slices = [io::IoSlice::new(first), io::IoSlice::new(second)];
            match rustix::io::writev(self.stream.as_fd(), &slices) {
                Ok(count) => {
                    self.outbound.consume(count);
                    Counters::add(&counters.bytes_out, count as u64);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CloseReason::Broken(error.kind())),
            }
        }
        if self.closing_until_ms.is_some() && !self.shut {
            self.shut = true;
            // The client reads to the end and closes; we wait for that so that no reset overtakes it.
            let _ = rustix::net::shutdown(self.stream.as_fd(), rustix::net::Shutdown::Write);
        }
        Ok(())
    }

    /// The last words of its protocol; from now on what comes in is thrown away.
    pub(super) fn start_closing(&mut self, reason: &CloseReason, until_ms: u64) {
        self.closing_until_ms = Some(until_ms);
        self.inbound = RingBuffer::new(0);
        if let Protocol::WebSocket(websocket) = &mut self.protocol {
            websocket.close(reason, &mut self.outbound);
        }
    }

    /// Whether it has been silent for too long, and else when to look again.
    pub(super) fn check_time(
        &mut self,
        config: &EdgeConfig,
        now_ms: u64,
    ) -> Result<Option<u64>, CloseReason> {
        self.inbound.tick(now_ms, QUIET_MS);
        self.outbound.tick(now_ms, QUIET_MS);
        let (handshake_ms, idle_ms) = (config.handshake_ms, config.idle_ms);
        let limit_ms = if self.spoken { idle_ms } else { handshake_ms };
        let due_ms = (limit_ms > 0).then_some(self.last_ms + limit_ms);
        if due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            return Err(if self.spoken {
                CloseReason::Idle { idle_ms }
            } else {
                CloseReason::Handshake { handshake_ms }
            });
        }
        let has_storage = self.inbound.capacity() + self.outbound.capacity() > 0;
        let shrink_ms = has_storage.then_some(now_ms + QUIET_MS);
        Ok(due_ms.into_iter().chain(shrink_ms).min())
    }
}

fn count_bytes(got: &Got, counters: &Counters) {
    if let Got::Bytes { count, .. } = got {
        Counters::add(&counters.bytes_in, *count as u64);
    }
}

/// One read into the free storage of `bytes`, of which there is at least [`READ_BYTES`].
fn read_some(stream: &Stream, bytes: &mut Vec<u8>) -> Result<Got, CloseReason> {
    bytes.reserve(READ_BYTES);
    let room = bytes.capacity() - bytes.len();
    got_of(
        rustix::io::read(stream.as_fd(), rustix::buffer::spare_capacity(bytes)),
        room,
    )
}

fn got_of(read: rustix::io::Result<usize>, room: usize) -> Result<Got, CloseReason> {
    match read {
        Ok(0) if room > 0 => Err(CloseReason::Peer),
        Ok(count) => Ok(Got::Bytes {
            count,
            more: count == room,
        }),
        Err(rustix::io::Errno::AGAIN) => Ok(Got::Empty),
        Err(rustix::io::Errno::INTR) => Ok(Got::Bytes {
            count: 0,
            more: true,
        }),
        Err(error) => Err(CloseReason::Broken(error.kind())),
    }
}
