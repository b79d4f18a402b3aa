//! The client packet and the batch of columns that packets are decoded into (CLIENT.md "Packets").
//!
//! ```text
//!   u32 length   of what follows, 12 to the limit; only on byte streams (TCP, Unix, TLS)
//!   u8  kind     0x00 to 0xef; 0xf0 and above are the edge's own (open, close)
//!   u8  flags    0
//!   u16 reserved 0
//!   u64 sequence
//!   ... payload
//! ```
//!
//! Little-endian. On WebSocket one binary message is one packet, on UDP one netcode payload; both know
//! their length, so `length` is left out there.

use super::ring::RingBuffer;
use std::fmt;

/// Bytes of the length prefix on byte streams.
pub const PREFIX_BYTES: usize = 4;
/// Bytes of a packet before its payload, prefix not counted.
pub const HEADER_BYTES: usize = 12;
/// Kinds from here on are the edge's own: a client that sends one is refused, or it could play the edge.
pub const FIRST_OWN_KIND: u8 = 0xf0;
/// The edge's own: a connection has opened; the payload says how (JSON).
pub const KIND_OPEN: u8 = 0xf0;
/// The edge's own: a connection has closed; the payload says why (text).
pub const KIND_CLOSE: u8 = 0xf1;

/// Why bytes are no packet. The connection they came from can't go on: the stream is out of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketError {
    /// Shorter than a header.
    TooShort {
        /// The length that was given.
        bytes: u64,
    },
    /// Longer than the limit.
    TooLong {
        /// The length that was given.
        bytes: u64,
        /// The most bytes a packet may have.
        limit_bytes: u64,
    },
    /// A kind that is the edge's own.
    OwnKind {
        /// The kind.
        kind: u8,
    },
    /// Flags or reserved bytes that are not zero.
    Reserved {
        /// Flags and reserved bytes as a number.
        value: u32,
    },
}

impl PacketError {
    /// A short name for counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooShort { .. } => "packet_too_short",
            Self::TooLong { .. } => "packet_too_long",
            Self::OwnKind { .. } => "packet_own_kind",
            Self::Reserved { .. } => "packet_reserved",
        }
    }
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { bytes } => write!(
                f,
                "packet of {bytes} bytes: shorter than its header of {HEADER_BYTES}"
            ),
            Self::TooLong { bytes, limit_bytes } => {
                write!(f, "packet of {bytes} bytes: limit {limit_bytes}")
            }
            Self::OwnKind { kind } => write!(
                f,
                "packet of kind {kind:#04x}: kinds from 0xf0 are the edge's own"
            ),
            Self::Reserved { value } => write!(
                f,
                "packet with flags and reserved bytes {value:#08x}: must be 0"
            ),
        }
    }
}

impl std::error::Error for PacketError {}

/// The fixed fields of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: u8,
    /// Frame, action or tick number, by kind.
    pub sequence: u64,
}

impl Header {
    /// Reads and checks the header; `bytes` is a whole packet without its prefix.
    ///
    /// # Errors
    /// [`PacketError`] by kind.
    #[inline]
    pub fn read(bytes: &[u8], limit: usize) -> Result<Self, PacketError> {
        if bytes.len() > limit {
            return Err(PacketError::TooLong {
                bytes: bytes.len() as u64,
                limit_bytes: limit as u64,
            });
        }
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(PacketError::TooShort {
                bytes: bytes.len() as u64,
            });
        };
        Self::check(head)
    }

    #[inline]
    fn check(head: &[u8; HEADER_BYTES]) -> Result<Self, PacketError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *head;
        let value = u32::from_le_bytes([b, c, d, 0]);
        if a >= FIRST_OWN_KIND || value != 0 {
            return Err(refuse_header(a, value));
        }
        Ok(Self {
            kind: a,
            sequence: u64::from_le_bytes([e, f, g, h, i, j, k, l]),
        })
    }

    /// Appends the header.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind, 0, 0, 0]);
        out.extend_from_slice(&self.sequence.to_le_bytes());
    }
}

#[cold]
fn refuse_header(kind: u8, value: u32) -> PacketError {
    if kind >= FIRST_OWN_KIND {
        PacketError::OwnKind { kind }
    } else {
        PacketError::Reserved { value }
    }
}

/// Appends a whole packet as it goes on a byte stream: prefix, header, payload.
pub fn write_packet(out: &mut Vec<u8>, header: Header, payload: &[u8]) {
    let length = (HEADER_BYTES + payload.len()) as u32;
    out.extend_from_slice(&length.to_le_bytes());
    header.write(out);
    out.extend_from_slice(payload);
}

/// Packets of many connections as columns over one arena: row `i` is the packet with
/// `arena[offset[i]..][..length[i]]` as its payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Whose it is.
    pub connection: Vec<u64>,
    /// What it is.
    pub kind: Vec<u8>,
    /// Its number.
    pub sequence: Vec<u64>,
    /// Where its payload begins in the arena.
    pub offset: Vec<u32>,
    /// How many bytes its payload has.
    pub length: Vec<u32>,
    /// The bytes; what no row points at is header or dropped bytes.
    pub arena: Vec<u8>,
}

/// How far a decoder came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// How many bytes were whole packets.
    pub consumed: usize,
    /// How many packets.
    pub packets: usize,
    /// What the bytes after `consumed` are, if they can't become a packet.
    pub error: Option<PacketError>,
}

impl Batch {
    /// How many packets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.kind.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.kind.is_empty()
    }

    /// Drops all packets, keeps the storage.
    pub fn clear(&mut self) {
        self.connection.clear();
        self.kind.clear();
        self.sequence.clear();
        self.offset.clear();
        self.length.clear();
        self.arena.clear();
    }

    /// The payload of row `index`; empty when there is no such row.
    #[must_use]
    pub fn payload(&self, index: usize) -> &[u8] {
        match (self.offset.get(index), self.length.get(index)) {
            (Some(&offset), Some(&length)) => &self.arena[offset as usize..][..length as usize],
            _ => &[],
        }
    }

    /// Adds a row for bytes that stand in the arena already.
    #[inline]
    pub fn push_row(&mut self, connection: u64, header: Header, offset: u32, length: u32) {
        self.connection.push(connection);
        self.kind.push(header.kind);
        self.sequence.push(header.sequence);
        self.offset.push(offset);
        self.length.push(length);
    }

    /// Adds a row and its payload.
    pub fn push(&mut self, connection: u64, header: Header, payload: &[u8]) {
        let offset = self.arena.len() as u32;
        self.arena.extend_from_slice(payload);
        self.push_row(connection, header, offset, payload.len() as u32);
    }

    /// Adds all rows of `other` and its arena.
    pub fn append(&mut self, other: &Self) {
        let base = self.arena.len() as u32;
        self.connection.extend_from_slice(&other.connection);
        self.kind.extend_from_slice(&other.kind);
        self.sequence.extend_from_slice(&other.sequence);
        self.offset
            .extend(other.offset.iter().map(|offset| offset + base));
        self.length.extend_from_slice(&other.length);
        self.arena.extend_from_slice(&other.arena);
    }

    /// Adds a row for each whole packet of the byte stream that stands in the arena from `start` on.
    /// `limit` bounds a packet without its prefix.
    pub fn decode_arena(&mut self, connection: u64, start: usize, limit: usize) -> Decoded {
        let arena = std::mem::take(&mut self.arena);
        let decoded = self.decode(
            connection,
            arena.get(start..).unwrap_or_default(),
            start,
            limit,
        );
        self.arena = arena;
        decoded
    }

    /// Takes whole packets out of a ring into the arena: what came in pieces.
    pub fn decode_ring(&mut self, connection: u64, ring: &mut RingBuffer, limit: usize) -> Decoded {
        let start = self.arena.len();
        let bytes = ring.contiguous();
        let whole = whole_packets(bytes, limit);
        self.arena.extend_from_slice(&bytes[..whole]);
        let mut decoded = self.decode_arena(connection, start, limit);
        ring.consume(decoded.consumed);
        if decoded.error.is_none() {
            // The rest is shorter than a packet, but may already be known to be none.
            decoded.error = self.decode(connection, ring.contiguous(), 0, limit).error;
        }
        decoded
    }

    /// Rows for the packets in `bytes`, which stand at `base` in the arena.
    fn decode(&mut self, connection: u64, bytes: &[u8], base: usize, limit: usize) -> Decoded {
        let (mut consumed, before) = (0, self.len());
        self.reserve(likely_packets(bytes));
        let error = loop {
            let mut rows = Rows::default();
            let (piece, end) = rows.fill(&bytes[consumed..], base + consumed, limit);
            consumed += piece;
            self.append_rows(connection, &rows);
            match end {
                None => {}
                Some(error) => break error,
            }
        };
        Decoded {
            consumed,
            packets: self.len() - before,
            error,
        }
    }

    fn reserve(&mut self, rows: usize) {
        self.connection.reserve(rows);
        self.kind.reserve(rows);
        self.sequence.reserve(rows);
        self.offset.reserve(rows);
        self.length.reserve(rows);
    }

    fn append_rows(&mut self, connection: u64, rows: &Rows) {
        let count = rows.count;
        self.connection
            .extend_from_slice(&[connection; ROWS_AT_A_TIME][..count]);
        self.kind.extend_from_slice(&rows.kind[..count]);
        self.sequence.extend_from_slice(&rows.sequence[..count]);
        self.offset.extend_from_slice(&rows.offset[..count]);
        self.length.extend_from_slice(&rows.length[..count]);
    }
}

/// How many rows are gathered on the stack before they go into the columns: one check of each column's
/// room for so many rows, and still only a few cache lines.
const ROWS_AT_A_TIME: usize = 32;

#[derive(Default)]
struct Rows {
    count: usize,
    kind: [u8; ROWS_AT_A_TIME],
    sequence: [u64; ROWS_AT_A_TIME],
    offset: [u32; ROWS_AT_A_TIME],
    length: [u32; ROWS_AT_A_TIME],
}

impl Rows {
    /// Fills up with the packets at the front of `bytes`, which stand at `base`. Gives their bytes, and
    /// what came after them: nothing known yet (`None`), or the end with or without an error.
    #[inline]
    fn fill(
        &mut self,
        bytes: &[u8],
        base: usize,
        limit: usize,
    ) -> (usize, Option<Option<PacketError>>) {
        let mut at = 0;
        for row in 0..ROWS_AT_A_TIME {
            self.count = row;
            let rest = &bytes[at..];
            let Some(head) = rest.first_chunk::<{ PREFIX_BYTES + HEADER_BYTES }>() else {
                return (at, Some(refuse_prefix(rest, limit)));
            };
            let word = u128::from_le_bytes(*head);
            let length = word as u32 as usize;
            if length < HEADER_BYTES || length > limit {
                return (at, Some(Some(refuse_length(length, limit))));
            }
            if rest.len() < PREFIX_BYTES + length {
                return (at, Some(None));
            }
            let fields = (word >> 32) as u32;
            if fields >= u32::from(FIRST_OWN_KIND) {
                return (at, Some(Some(refuse_header(fields as u8, fields >> 8))));
            }
            self.kind[row] = fields as u8;
            self.sequence[row] = (word >> 64) as u64;
            self.offset[row] = (base + at + PREFIX_BYTES + HEADER_BYTES) as u32;
            self.length[row] = (length - HEADER_BYTES) as u32;
            at += PREFIX_BYTES + length;
        }
        self.count = ROWS_AT_A_TIME;
        (at, None)
    }
}

/// The first packet's length tells how many there may be; a guess that is wrong costs a growth.
fn likely_packets(bytes: &[u8]) -> usize {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return 0;
    };
    let length = (u32::from_le_bytes(*prefix) as usize).max(HEADER_BYTES);
    bytes.len() / (PREFIX_BYTES + length)
}

/// Less than a header: is it already known that it can't become one?
fn refuse_prefix(rest: &[u8], limit: usize) -> Option<PacketError> {
    let length = u32::from_le_bytes(*rest.first_chunk::<PREFIX_BYTES>()?) as usize;
    (length < HEADER_BYTES || length > limit).then(|| refuse_length(length, limit))
}

#[cold]
fn refuse_length(length: usize, limit: usize) -> PacketError {
    if length < HEADER_BYTES {
        PacketError::TooShort {
            bytes: length as u64,
        }
    } else {
        PacketError::TooLong {
            bytes: length as u64,
            limit_bytes: limit as u64,
        }
    }
}

/// How many bytes at the front are packets by their lengths.
fn whole_packets(bytes: &[u8], limit: usize) -> usize {
    let mut at = 0;
    while let Some(prefix) = bytes[at..].first_chunk::<PREFIX_BYTES>() {
        let length = u32::from_le_bytes(*prefix) as usize;
        let end = at + PREFIX_BYTES + length;
        if length < HEADER_BYTES || length > limit || end > bytes.len() {
            break;
        }
        at = end;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 200;

    type Row = (u8, u64, Vec<u8>);

    /// The naive model: one packet at a time, copying.
    fn model(bytes: &[u8]) -> (Vec<Row>, Option<PacketError>) {
        let (mut packets, mut at) = (Vec::new(), 0);
        loop {
            if bytes.len() - at < 4 {
                return (packets, None);
            }
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            if length < 12 {
                return (
                    packets,
                    Some(PacketError::TooShort {
                        bytes: length as u64,
                    }),
                );
            }
            if length > LIMIT {
                let error = PacketError::TooLong {
                    bytes: length as u64,
                    limit_bytes: LIMIT as u64,
                };
                return (packets, Some(error));
            }
            if bytes.len() - at - 4 < length {
                return (packets, None);
            }
            let body = &bytes[at + 4..at + 4 + length];
            match Header::read(body, LIMIT) {
                Ok(header) => packets.push((header.kind, header.sequence, body[12..].to_vec())),
                Err(error) => return (packets, Some(error)),
            }
            at += 4 + length;
        }
    }

    fn rows(batch: &Batch) -> Vec<Row> {
        (0..batch.len())
            .map(|i| (batch.kind[i], batch.sequence[i], batch.payload(i).to_vec()))
            .collect()
    }

    /// As the reactor does it: into the arena while nothing waits, else through the ring.
    fn decode_split(bytes: &[u8], cuts: &[usize]) -> (Vec<Row>, Option<PacketError>) {
        let (mut batch, mut ring) = (Batch::default(), RingBuffer::new(1 << 16));
        let mut at = 0;
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let end = cut.min(bytes.len()).max(at);
            let piece = &bytes[at..end];
            at = end;
            let decoded = if ring.is_empty() {
                let start = batch.arena.len();
                batch.arena.extend_from_slice(piece);
                let decoded = batch.decode_arena(9, start, LIMIT);
                ring.push(&batch.arena[start + decoded.consumed..]).unwrap();
                batch.arena.truncate(start + decoded.consumed);
                decoded
            } else {
                ring.push(piece).unwrap();
                batch.decode_ring(9, &mut ring, LIMIT)
            };
            if decoded.error.is_some() {
                return (rows(&batch), decoded.error);
            }
        }
        (rows(&batch), None)
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let packet = (
            0_u8..0xf2,
            any::<u64>(),
            proptest::collection::vec(any::<u8>(), 0..LIMIT),
        )
            .prop_map(|(kind, sequence, payload)| {
                let mut out = Vec::new();
                write_packet(&mut out, Header { kind, sequence }, &payload);
                out
            });
        (
            proptest::collection::vec(packet, 0..20),
            proptest::collection::vec(any::<u8>(), 0..30),
        )
            .prop_map(|(packets, rest)| {
                let mut out = packets.concat();
                out.extend(rest);
                out
            })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_packets(bytes in stream(), mut cuts in proptest::collection::vec(0_usize..4000, 0..12)) {
            cuts.sort_unstable();
            let expected = model(&bytes);
            prop_assert_eq!(decode_split(&bytes, &cuts), expected.clone());
            let each: Vec<usize> = (0..bytes.len()).collect();
            prop_assert_eq!(decode_split(&bytes, &each), expected);
        }

        #[test]
        fn any_bytes_give_packets_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(decode_split(&bytes, &[]), model(&bytes));
        }
    }

    #[test]
    fn a_client_can_not_play_the_edge() {
        let mut bytes = Vec::new();
        write_packet(
            &mut bytes,
            Header {
                kind: KIND_OPEN,
                sequence: 1,
            },
            b"{}",
        );
        assert_eq!(
            decode_split(&bytes, &[]),
            (vec![], Some(PacketError::OwnKind { kind: 0xf0 }))
        );
    }

    #[test]
    fn appended_batches_keep_their_payloads() {
        let (mut first, mut second) = (Batch::default(), Batch::default());
        first.push(
            1,
            Header {
                kind: 1,
                sequence: 10,
            },
            b"one",
        );
        second.push(
            2,
            Header {
                kind: 2,
                sequence: 20,
            },
            b"two!",
        );
        first.append(&second);
        assert_eq!(first.connection, [1, 2]);
        assert_eq!(
            (first.payload(0), first.payload(1)),
            (&b"one"[..], &b"two!"[..])
        );
        assert_eq!(first.payload(2), b"");
    }
}
