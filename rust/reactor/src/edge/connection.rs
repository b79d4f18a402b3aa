//! One stream connection: what it has read, what waits to be written, how it ends.
//!
//! ```text
//!   Unknown --- 4 bytes ---> Packets                  Open --- close() ---> Closing --- flushed,
//!      \---- "GET " ----> Request ---> WebSocket                 client closed too, or LINGER_MS ---> gone
//!   Raw, Frames from the begin; Connecting ---> Packets, Raw, Frames, or Answer ---> WebSocket when it is an
//!   outgoing one
//! ```
//!
//! Bytes are read straight into the batch's arena; only what is no whole packet yet is kept in the
//! `inbound` ring. Edge-triggered: whoever reads goes on until the socket is empty.

use zmqgame_core::stream::frame::FrameDecoder;
use zmqgame_core::stream::packet::{Batch, HEADER_BYTES, Header, KIND_OPEN, PREFIX_BYTES};
use zmqgame_core::stream::ring::{RingBuffer, RingFull};

use super::admission::Admission;
use super::command::packets_of;
use super::config::{
    EdgeConfig, Framing, LEFT_MS, OWN_ANSWERS_BYTES, QUIET_MS, REQUEST_HEAD_BYTES,
};
use super::counters::Counters;
use super::gate::Incoming;
use super::line::{Got, Line, READ_BYTES};
use super::rates::Rates;
use super::reason::CloseReason;
use super::websocket::{self, WebSocket};
use super::websocket_client::{self, Ask};
use crate::listener::Peer;
use crate::stream::Stream;

/// Reads of one connection before the next one's turn.
const READS_A_TURN: usize = 4;
/// A packet of which at least this much is there is completed in the ring: moving it would cost more.
const STAY_IN_RING_BYTES: usize = 4_096;
/// What a connection is taken to hold without any buffer, for the bound on memory: measured.
pub(super) const CONNECTION_BYTES: usize = 1_024;
/// Prefix and header of a packet.
pub(super) const HEAD_BYTES: usize = PREFIX_BYTES + HEADER_BYTES;

/// What the loop lends to a connection.
pub(super) struct Context<'a> {
    pub(super) config: &'a EdgeConfig,
    pub(super) counters: &'a Counters,
    pub(super) batch: &'a mut Batch,
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) cipher: &'a mut Vec<u8>,
    pub(super) now_ms: u64,
}

enum Protocol {
    /// Outgoing: the socket, then TLS; and what is asked then, where it is a WebSocket.
    Connecting(Option<Box<Ask>>),
    /// Outgoing: the answer to the WebSocket request.
    Answer {
        accept: String,
        seen: usize,
    },
    Unknown,
    Request {
        seen: usize,
    },
    Packets,
    Raw,
    Frames(Box<FrameDecoder>),
    WebSocket(Box<WebSocket>),
}

/// How one turn of reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// All that was there was read.
    Done,
    /// There may be more.
    More,
    /// There may be more, and it has to wait.
    Throttled,
}

/// One connection of a loop.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) peer: Peer,
    pub(super) line: Line,
    framing: Framing,
    protocol: Protocol,
    inbound: RingBuffer,
    pub(super) outbound: RingBuffer,
    /// What the table has charged for the bytes in `outbound`.
    pub(super) charged: usize,
    /// What it holds, as far as the total of all knows.
    pub(super) admission: Admission,
    rates: Option<Box<Rates>>,
    /// Whether the consumer knows it.
    pub(super) opened: bool,
    /// Whether the consumer knows that nothing more comes.
    pub(super) told: bool,
    /// Its client has ended its half: until when it may be answered.
    pub(super) answer_until_ms: Option<u64>,
    /// Whether we have made it.
    pub(super) outgoing: bool,
    /// When the last whole packet came, or the connection.
    last_ms: u64,
    /// Whether a whole packet (WebSocket: the request) has come.
    spoken: bool,
    /// The consumer wants no more for now.
    pub(super) paused: bool,
    /// It has sent too much: until when it is not read.
    pub(super) throttled_until_ms: Option<u64>,
    /// Something came while it was not to be read.
    pub(super) unread: bool,
    /// Whether it stands in the loop's list of connections to read.
    pub(super) queued_read: bool,
    /// Whether it stands in the loop's list of connections to write.
    pub(super) queued_write: bool,
    /// The other side has sent its end: reads go on until they see it.
    pub(super) ended: bool,
    /// Neither side can say anything any more.
    pub(super) gone: bool,
    /// The end was read.
    pub(super) at_end: bool,
    /// Whether a timer is set for it.
    pub(super) timer: bool,
    /// Since when it is closing, until when it may.
    pub(super) closing_until_ms: Option<u64>,
}

fn full(full: RingFull) -> CloseReason {
    CloseReason::Full {
        limit_bytes: full.limit_bytes,
    }
}

impl Connection {
    /// One that the gate has taken in.
    pub(super) fn new(id: u64, from: Incoming, config: &EdgeConfig) -> Self {
        let protocol = protocol_of(&from.framing, Protocol::Unknown);
        Self::with(id, from, config, protocol)
    }

    /// One that we make; `ask` for a WebSocket.
    pub(super) fn outgoing(
        id: u64,
        from: Incoming,
        config: &EdgeConfig,
        ask: Option<Box<Ask>>,
    ) -> Self {
        let mut made = Self::with(id, from, config, Protocol::Connecting(ask));
        made.outgoing = true;
        made
    }

    fn with(id: u64, from: Incoming, config: &EdgeConfig, protocol: Protocol) -> Self {
        let inbound = config.max_packet_bytes.max(REQUEST_HEAD_BYTES);
        let now_ms = from.since_ms;
        Self {
            id,
            peer: from.peer,
            line: from.line,
            protocol,
            framing: from.framing,
            inbound: RingBuffer::new(inbound + PREFIX_BYTES + READ_BYTES),
            outbound: RingBuffer::new(config.max_outbound_bytes + OWN_ANSWERS_BYTES),
            charged: 0,
            admission: from.admission,
            rates: Rates::new(config, now_ms),
            opened: false,
            told: false,
            answer_until_ms: None,
            outgoing: false,
            last_ms: now_ms,
            spoken: false,
            paused: false,
            throttled_until_ms: None,
            unread: false,
            queued_read: false,
            queued_write: false,
            ended: false,
            gone: false,
            at_end: false,
            timer: false,
            closing_until_ms: None,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing_until_ms.is_some()
    }

    pub(super) fn is_connecting(&self) -> bool {
        matches!(
            self.protocol,
            Protocol::Connecting(_) | Protocol::Answer { .. }
        )
    }

    /// Whether it may be read now. A closing one always: nobody gets to see what comes. One whose client is
    /// gone, too: it would stand there for ever if nobody resumed it.
    pub(super) fn may_read(&self) -> bool {
        let held = self.paused || self.throttled_until_ms.is_some();
        self.is_closing() || self.gone || !held
    }

    /// Whether its client, which has ended its half, may wait for answers. After a close frame it does not.
    pub(super) fn can_be_answered(&self) -> bool {
        let open = match &self.protocol {
            Protocol::WebSocket(websocket) => websocket.can_write(),
            _ => true,
        };
        open && self.opened && !self.gone && !self.is_closing()
    }

    /// It is paused and its client has ended: from now on it is silent.
    pub(super) fn begin_wait(&mut self, now_ms: u64) {
        self.last_ms = now_ms;
    }

    pub(super) fn wants_write(&self) -> bool {
        self.line.wants_write(&self.outbound)
    }

    /// Bytes that it holds.
    pub(super) fn memory(&self) -> usize {
        let protocol = match &self.protocol {
            Protocol::WebSocket(websocket) => websocket.memory(),
            Protocol::Frames(decoder) => decoder.held_bytes(),
            _ => 0,
        };
        let rings = self.inbound.capacity() + self.outbound.capacity();
        CONNECTION_BYTES + self.line.memory() + rings + protocol
    }

    /// Where the first bytes don't have to tell the protocol: tells the consumer at once, for a server may
    /// be the one that speaks first.
    pub(super) fn start(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.protocol, Protocol::Unknown) {
            self.spoken = true;
            let transport = match self.protocol {
                Protocol::Raw | Protocol::Frames(_) if !self.outgoing => "raw",
                _ => self.transport(),
            };
            self.open(transport, cx);
        }
    }

    /// An outgoing one is there: socket and TLS. A WebSocket's request goes out now.
    pub(super) fn connected(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        if let Protocol::Connecting(Some(ask)) = &mut self.protocol {
            self.outbound.push(&ask.request).map_err(full)?;
            let accept = std::mem::take(&mut ask.accept);
            self.protocol = Protocol::Answer { accept, seen: 0 };
            return Ok(());
        }
        self.protocol = protocol_of(&self.framing, Protocol::Packets);
        self.last_ms = cx.now_ms;
        self.start(cx);
        Ok(())
    }

    fn transport(&self) -> &'static str {
        match self.line.stream() {
            Stream::Tcp(_) => "tcp",
            Stream::Unix(_) => "unix",
        }
    }

    /// Tells the consumer.
    pub(super) fn open(&mut self, transport: &str, cx: &mut Context<'_>) {
        self.opened = true;
        Counters::add(&cx.counters.opened, 1);
        let peer = self.peer.to_string();
        let peer = peer.replace('\\', "\\\\").replace('"', "\\\"");
        let tls = self
            .line
            .tls()
            .map_or_else(String::new, |tls| format!(",\"tls\":\"{}\"", tls.version()));
        let text = format!("{{\"transport\":\"{transport}\",\"peer\":\"{peer}\"{tls}}}");
        cx.batch.push(
            self.id,
            Header {
                kind: KIND_OPEN,
                sequence: 0,
            },
            text.as_bytes(),
        );
    }

    /// Reads what there is, for one turn.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> Result<Turn, CloseReason> {
        for _ in 0..READS_A_TURN {
            if self.at_end {
                return Ok(Turn::Done);
            }
            let before = cx.batch.len();
            let got = if self.is_closing() {
                self.read_into_scratch(cx)?
            } else {
                self.read_once(cx)?
            };
            let (count, more) = match got {
                Got::Empty => return Ok(Turn::Done),
                Got::Bytes { count, more } => (count, more || self.ended),
            };
            // What a closing one sends is thrown away: it must not keep its client's last bytes back.
            let closing = self.closing_until_ms.is_some();
            if let Some(rates) = self.rates.as_mut().filter(|_| !closing) {
                let packets = cx.batch.len() - before;
                self.throttled_until_ms = rates.spend(cx.now_ms, packets as u64, count as u64);
                if self.throttled_until_ms.is_some() && !self.gone {
                    Counters::add(&cx.counters.throttled, 1);
                    return Ok(Turn::Throttled);
                }
            }
            if !more {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::More)
    }

    fn read_once(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        match &self.protocol {
            Protocol::Raw => self.read_raw(cx),
            Protocol::Packets
                if self.inbound.len() >= STAY_IN_RING_BYTES && self.line.tls().is_none() =>
            {
                self.read_large(cx)
            }
            Protocol::Packets => self.read_packets(cx),
            Protocol::Connecting(_) => self.read_connecting(cx),
            Protocol::Answer { .. } => {
                let got = self.read_into_scratch(cx)?;
                self.inbound.push(cx.scratch).map_err(full)?;
                self.read_answer(cx)?;
                Ok(got)
            }
            Protocol::Unknown | Protocol::Request { .. } => {
                let got = self.read_into_scratch(cx)?;
                self.inbound.push(cx.scratch).map_err(full)?;
                self.recognise(cx)?;
                Ok(got)
            }
            Protocol::Frames(_) => {
                let got = self.read_into_scratch(cx)?;
                let bytes = std::mem::take(cx.scratch);
                let fed = self.feed_frames(&bytes, cx);
                *cx.scratch = bytes;
                fed.map(|()| got)
            }
            Protocol::WebSocket(_) => {
                let got = self.read_into_scratch(cx)?;
                let bytes = std::mem::take(cx.scratch);
                let fed = self.feed_websocket(&bytes, cx);
                *cx.scratch = bytes;
                fed.map(|()| got)
            }
        }
    }

    fn read_into_scratch(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        cx.scratch.clear();
        self.line.read(cx.scratch, cx.cipher, cx.counters)
    }

    /// The server's side of TLS; it may send at once what belongs to the first packets.
    fn read_connecting(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        let got = self.read_into_scratch(cx)?;
        if !self.line.is_handshaking() {
            self.line.put_back(cx.scratch);
            self.connected(cx)?;
        }
        Ok(got)
    }

    fn read_raw(&mut self, cx: &mut Context<'_>) -> Result<Got, CloseReason> {
        let start = cx.batch.arena.len();
        let got = self
            .line
            .read(&mut cx.batch.arena, cx.cipher, cx.counters)?;
        if let Got::Bytes { count: 1.., .. } = got {
            let count = cx.batch.arena.len() - start;
            cx.batch
                .push_row(self.id, PLAIN, start as u32, count as u32);
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
        let got = match self.line.read(&mut cx.batch.arena, cx.cipher, cx.counters) {
            Ok(Got::Bytes { count, more }) => Got::Bytes { count, more },
            other => {
                cx.batch.arena.truncate(start);
                return other;
            }
        };
        self.inbound.clear();
        let limit = cx.config.max_packet_bytes;
        let decoded = cx.batch.decode_arena(self.id, start, limit);
        let end = start + decoded.consumed;
        let kept = self.inbound.push(&cx.batch.arena[end..]);
        cx.batch.arena.truncate(end);
        self.count_packets(decoded.packets, cx);
        match decoded.error {
            Some(error) => Err(CloseReason::Packet(error)),
            None => kept.map_err(full).map(|()| got),
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
        self.inbound.reserve(missing).map_err(full)?;
        let got = self
            .line
            .read_into_ring(&mut self.inbound, missing, cx.counters)?;
        if matches!(got, Got::Bytes { count, .. } if count == missing) {
            self.decode_inbound(cx)?;
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

    /// Which protocol is it? A packet can't begin with `GET `: as a length that is over every limit.
    fn recognise(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        if matches!(self.protocol, Protocol::Unknown) {
            let bytes = self.inbound.contiguous();
            let common = bytes.len().min(4);
            if bytes[..common] != b"GET "[..common] {
                self.protocol = Protocol::Packets;
                self.open(self.transport(), cx);
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
        self.outbound.push(&answer).map_err(full)?;
        self.begin_websocket(WebSocket::new(cx.config.max_packet_bytes), size, cx)
    }

    /// What the server says to our request.
    fn read_answer(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let Protocol::Answer { accept, seen } = &mut self.protocol else {
            return Ok(());
        };
        match websocket_client::read_answer(self.inbound.contiguous(), *seen, accept)? {
            Some(size) => {
                self.begin_websocket(WebSocket::client(cx.config.max_packet_bytes), size, cx)
            }
            None => {
                *seen = self.inbound.len();
                Ok(())
            }
        }
    }

    /// Behind a head of `size` bytes there are frames only.
    fn begin_websocket(
        &mut self,
        websocket: WebSocket,
        size: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        self.inbound.consume(size);
        let rest = self.inbound.contiguous().to_vec();
        self.inbound.clear();
        self.inbound.shrink();
        self.protocol = Protocol::WebSocket(Box::new(websocket));
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

    fn feed_frames(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let Protocol::Frames(decoder) = &mut self.protocol else {
            return Ok(());
        };
        let (id, mut frames) = (self.id, 0);
        let fed = decoder.feed(bytes, |frame| {
            cx.batch.push(id, PLAIN, frame);
            frames += 1;
        });
        self.count_packets(frames, cx);
        fed.map_err(CloseReason::Frame)
    }

    /// Queues packets that stand one after the other.
    pub(super) fn write_packets(&mut self, packets: &[u8]) -> Result<(), CloseReason> {
        if matches!(self.protocol, Protocol::Packets) {
            return self.outbound.push(packets).map_err(full);
        }
        for packet in packets_of(packets) {
            if let Some((head, payload)) = packet.split_first_chunk::<HEAD_BYTES>() {
                self.write(head, &[payload])?;
            }
        }
        Ok(())
    }

    /// Queues a packet: prefix and header, and the parts of its payload.
    pub(super) fn write(
        &mut self,
        head: &[u8; HEAD_BYTES],
        parts: &[&[u8]],
    ) -> Result<(), CloseReason> {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let first = match &mut self.protocol {
            Protocol::WebSocket(websocket) => {
                let head = &head[PREFIX_BYTES..];
                return websocket.write(head, parts, payload, &mut self.outbound);
            }
            Protocol::Packets => &head[..],
            Protocol::Raw => &[],
            Protocol::Frames(decoder) => {
                let mut frame = Vec::with_capacity(payload + HEAD_BYTES);
                let encoded = decoder.framing().encode(&parts.concat(), &mut frame);
                encoded.map_err(CloseReason::Frame)?;
                return self.outbound.push(&frame).map_err(full);
            }
            // The consumer does not know it yet: it has guessed the id.
            Protocol::Unknown
            | Protocol::Request { .. }
            | Protocol::Connecting(_)
            | Protocol::Answer { .. } => return Ok(()),
        };
        self.outbound.reserve(first.len() + payload).map_err(full)?;
        for part in std::iter::once(&first).chain(parts) {
            self.outbound.push(part).map_err(full)?;
        }
        Ok(())
    }

    /// Writes what the socket takes, and this side's end once it is closing.
    pub(super) fn flush(&mut self, counters: &Counters) -> Result<(), CloseReason> {
        if self.line.flush(&mut self.outbound, counters)? && self.is_closing() {
            self.line.shut(counters)?;
        }
        Ok(())
    }

    /// The last words of its protocol; from now on what comes in is thrown away.
    pub(super) fn start_closing(&mut self, reason: &CloseReason, until_ms: u64) {
        self.closing_until_ms = Some(until_ms);
        self.inbound = RingBuffer::new(0);
        self.at_end |= *reason == CloseReason::Peer;
        if let Protocol::WebSocket(websocket) = &mut self.protocol {
            websocket.close(reason, &mut self.outbound);
        }
    }

    /// Whether it has been silent for too long, and else when to look again. While the consumer is `behind`
    /// nobody is read, so nobody is silent.
    pub(super) fn check_time(
        &mut self,
        config: &EdgeConfig,
        now_ms: u64,
        behind: bool,
    ) -> Result<Option<u64>, CloseReason> {
        self.inbound.tick(now_ms, QUIET_MS);
        self.outbound.tick(now_ms, QUIET_MS);
        self.line.shrink();
        match &mut self.protocol {
            Protocol::WebSocket(websocket) => websocket.tick(now_ms, QUIET_MS),
            Protocol::Frames(decoder) => decoder.tick(now_ms, QUIET_MS),
            _ => {}
        }
        self.throttled_until_ms = self
            .throttled_until_ms
            .filter(|&until_ms| until_ms > now_ms);
        let left = self.paused && self.ended;
        if (!self.may_read() || behind) && !left {
            // It is not the client that is silent, but the consumer.
            self.last_ms = now_ms;
        }
        let (limit_ms, reason) = match config.idle_ms {
            0 if left => (LEFT_MS, CloseReason::Peer),
            idle_ms if left => (idle_ms, CloseReason::Peer),
            _ if self.answer_until_ms.is_some() => (0, CloseReason::Peer),
            _ => self.time_limit(config),
        };
        let silent_ms = (limit_ms > 0).then_some(self.last_ms + limit_ms);
        let due_ms = self.answer_until_ms.or(silent_ms);
        if due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            return Err(reason);
        }
        let shrink_ms = self.has_storage().then_some(now_ms + QUIET_MS);
        let all = [due_ms, shrink_ms, self.throttled_until_ms];
        Ok(all.into_iter().flatten().min())
    }

    /// How long it may be silent, and what it is then.
    fn time_limit(&self, config: &EdgeConfig) -> (u64, CloseReason) {
        let (connect_ms, handshake_ms, idle_ms) =
            (config.connect_ms, config.handshake_ms, config.idle_ms);
        if self.is_connecting() {
            (connect_ms, CloseReason::ConnectTime { connect_ms })
        } else if self.spoken {
            (idle_ms, CloseReason::Idle { idle_ms })
        } else {
            (handshake_ms, CloseReason::Handshake { handshake_ms })
        }
    }

    /// Whether it holds buffers that could be given back.
    pub(super) fn has_storage(&self) -> bool {
        let protocol = match &self.protocol {
            Protocol::WebSocket(websocket) => websocket.has_storage(),
            Protocol::Frames(decoder) => decoder.held_bytes() > 0,
            _ => false,
        };
        self.inbound.capacity() + self.outbound.capacity() > 0
            || protocol
            || self.line.has_storage()
    }
}

/// The header of what comes without one.
const PLAIN: Header = Header {
    kind: 0,
    sequence: 0,
};

fn protocol_of(framing: &Framing, packets: Protocol) -> Protocol {
    match framing {
        Framing::Packets => packets,
        Framing::Raw => Protocol::Raw,
        Framing::Frames(rule) => Protocol::Frames(Box::new(FrameDecoder::new((**rule).clone()))),
    }
}
