//! What tungstenite and rustls hold for a connection: neither tells, so it is worked out from the bytes that
//! they are given, as their buffers grow. `tests/edge_memory.rs` compares with the allocator.

/// The head of the longest frame: from a client, of more than 64 KiB.
const LONGEST_HEAD_BYTES: usize = 14;
/// What tungstenite reads at a time; it keeps this much for each connection.
pub(super) const READ_AHEAD_BYTES: usize = 2_048;
/// Bits of a frame's first byte: it is the last of its message; its kind.
const LAST: u8 = 0x80;
const KIND: u8 = 0x0f;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const FIRST_CONTROL: u8 = 8;

/// Storage that grows as a `Vec` does: at least to its double.
fn grow(storage: &mut usize, wanted: usize) {
    if wanted > *storage {
        *storage = wanted.max(2 * *storage);
    }
}

/// The frames of one WebSocket's input, and the storage that tungstenite has for them.
#[derive(Debug)]
pub(super) struct Frames {
    limit: usize,
    head: [u8; LONGEST_HEAD_BYTES],
    head_len: usize,
    /// Bytes of the frame's payload that are still to come.
    rest: u64,
    /// Whether the frame ends its message; none that is about the connection does.
    last: bool,
    /// Bytes of a message whose last frame has not begun, and their storage.
    fragments: Option<usize>,
    fragments_storage: usize,
    input_storage: usize,
    /// The largest need for input storage since the last tick.
    peak: usize,
    busy_ms: u64,
}

impl Frames {
    /// For messages and frames of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            head: [0; LONGEST_HEAD_BYTES],
            head_len: 0,
            rest: 0,
            last: false,
            fragments: None,
            fragments_storage: 0,
            input_storage: READ_AHEAD_BYTES,
            peak: 0,
            busy_ms: 0,
        }
    }

    /// Follows bytes on their way to tungstenite. Gives where the head of a text message ends, if one begins
    /// here: what is behind it need not be kept.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.rest > 0 {
                let skipped = self.rest.min((bytes.len() - at) as u64);
                self.rest -= skipped;
                at += skipped as usize;
            } else {
                let begun = self.head_len;
                let mut found = None;
                // Mostly it is whole; only what is not has to be kept.
                if begun == 0 {
                    found = read_head(&bytes[at..]).map(|head| (bytes[at], head));
                }
                if found.is_none() {
                    let more = (bytes.len() - at).min(LONGEST_HEAD_BYTES - begun);
                    self.head[begun..begun + more].copy_from_slice(&bytes[at..at + more]);
                    self.head_len = begun + more;
                    found = read_head(&self.head[..begun + more]).map(|head| (self.head[0], head));
                }
                let Some((first, (head, payload))) = found else {
                    break;
                };
                at += head - begun;
                self.head_len = 0;
                self.rest = payload;
                if self.begin(first) {
                    return Some(at);
                }
            }
            if self.rest == 0 && self.last {
                self.fragments = None;
                self.fragments_storage = 0;
            }
        }
        None
    }

    /// Counts what a frame takes, from its head. Gives whether it begins a text message.
    fn begin(&mut self, first: u8) -> bool {
        let payload = self.rest;
        let kind = first & KIND;
        let control = kind >= FIRST_CONTROL;
        self.last = first & LAST > 0 && !control;
        if payload > self.limit as u64 {
            // It is refused before anything is kept.
            return kind == TEXT;
        }
        let wanted = payload as usize + READ_AHEAD_BYTES;
        if payload as usize > READ_AHEAD_BYTES {
            grow(&mut self.input_storage, wanted);
        }
        self.peak = self.peak.max(wanted);
        let continued = kind == CONTINUATION;
        if !control && (continued || first & LAST == 0) {
            let all = self.fragments.unwrap_or(0) + payload as usize;
            if all <= self.limit {
                grow(&mut self.fragments_storage, all);
                self.fragments = Some(all);
            }
        }
        kind == TEXT
    }

    /// What tungstenite has for the input.
    pub(super) fn bytes(&self) -> usize {
        self.input_storage + self.fragments_storage
    }

    /// Whether the storage is larger than a connection at rest needs.
    pub(super) fn has_grown(&self) -> bool {
        self.bytes() > READ_AHEAD_BYTES
    }

    /// To be called now and then: whether for `quiet_ms` so little was needed that the storage can go, and
    /// nothing stands in it.
    pub(super) fn may_shrink(&mut self, now_ms: u64, quiet_ms: u64) -> bool {
        let needed = std::mem::take(&mut self.peak) > self.input_storage / 4;
        let between = self.rest == 0 && self.head_len == 0 && self.fragments.is_none();
        if needed || !between {
            self.busy_ms = now_ms;
        }
        self.has_grown() && now_ms.saturating_sub(self.busy_ms) >= quiet_ms
    }
}

/// How long a frame's head and payload are (RFC 6455 section 5.2); `None` when the head is not whole.
#[inline]
fn read_head(bytes: &[u8]) -> Option<(usize, u64)> {
    let second = *bytes.get(1)?;
    let mask = if second & 0x80 > 0 { 4 } else { 0 };
    let (end, payload) = match second & 0x7f {
        126 => {
            let length = bytes.get(2..4)?.first_chunk()?;
            (4, u64::from(u16::from_be_bytes(*length)))
        }
        127 => {
            let length = bytes.get(2..10)?.first_chunk()?;
            (10, u64::from_be_bytes(*length))
        }
        length => (2, u64::from(length)),
    };
    (bytes.len() >= end + mask).then_some((end + mask, payload))
}

/// The head of a TLS record: type, version, length.
const RECORD_HEAD_BYTES: usize = 5;
/// What rustls reads at a time.
const RECORD_READ_BYTES: usize = 4_096;
/// The most that rustls keeps of records, and of a handshake message that goes over several.
const RECORDS_BYTES: usize = 16_384 + 2_048 + RECORD_HEAD_BYTES;
const JOINED_BYTES: usize = 65_535;

/// The records of one TLS connection, and the storage that rustls has for them.
#[derive(Debug, Default)]
pub(super) struct Records {
    head: [u8; RECORD_HEAD_BYTES],
    head_len: usize,
    /// Bytes of the record that are still to come, and that are there.
    rest: usize,
    there: usize,
    /// Bytes of whole records that gave nothing: pieces of a handshake message.
    joined: usize,
    size: usize,
    storage: usize,
    /// Bytes of records that wait to be written.
    pub(super) to_write: usize,
}

impl Records {
    /// What rustls has for records.
    pub(super) fn bytes(&self) -> usize {
        self.storage + self.to_write
    }

    /// Whether the storage is larger than a connection at rest needs.
    pub(super) fn has_grown(&self) -> bool {
        self.storage > RECORD_READ_BYTES
    }

    /// Whether nothing is kept but the storage.
    pub(super) fn is_between(&self) -> bool {
        self.there + self.head_len + self.joined == 0
    }

    /// Before rustls reads: as it makes room.
    pub(super) fn make_room(&mut self) {
        let used = self.there + self.head_len + self.joined;
        let most = if self.joined > 0 {
            JOINED_BYTES
        } else {
            RECORDS_BYTES
        };
        let wanted = most.min(used + RECORD_READ_BYTES);
        if wanted > self.size {
            self.size = wanted;
            grow(&mut self.storage, wanted);
        } else if used == 0 || self.size > most {
            (self.size, self.storage) = (wanted, wanted);
        }
    }

    /// After rustls has read `bytes` and worked on them; whether they gave anything.
    pub(super) fn follow(&mut self, mut bytes: &[u8], gave: bool) {
        while !bytes.is_empty() {
            if self.rest == 0 {
                let more = bytes.len().min(RECORD_HEAD_BYTES - self.head_len);
                let (head, others) = bytes.split_at(more);
                self.head[self.head_len..self.head_len + more].copy_from_slice(head);
                self.head_len += more;
                bytes = others;
                if self.head_len < RECORD_HEAD_BYTES {
                    break;
                }
                self.head_len = 0;
                self.there = RECORD_HEAD_BYTES;
                self.rest = usize::from(u16::from_be_bytes([self.head[3], self.head[4]]));
            }
            let more = self.rest.min(bytes.len());
            bytes = &bytes[more..];
            self.rest -= more;
            self.there += more;
            if self.rest == 0 {
                self.joined = (self.joined + self.there).min(JOINED_BYTES);
                self.there = 0;
            }
        }
        if gave {
            self.joined = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(first: u8, payload: u64) -> Vec<u8> {
        let mut head = vec![first];
        match payload {
            0..126 => head.push(0x80 | payload as u8),
            126..65_536 => {
                head.push(0x80 | 126);
                head.extend((payload as u16).to_be_bytes());
            }
            _ => {
                head.push(0x80 | 127);
                head.extend(payload.to_be_bytes());
            }
        }
        head.extend([1, 2, 3, 4]);
        head
    }

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = head(first, payload as u64);
        frame.resize(frame.len() + payload, 7);
        frame
    }

    /// All at once and byte by byte.
    fn both(limit: usize, bytes: &[u8]) -> [(Frames, Option<usize>); 2] {
        [bytes.len().max(1), 1].map(|piece| {
            let (mut frames, mut text) = (Frames::new(limit), None);
            for (index, part) in bytes.chunks(piece).enumerate() {
                text = text.or(frames.follow(part).map(|at| index * piece + at));
            }
            (frames, text)
        })
    }

    #[test]
    fn a_message_in_the_making_counts_from_its_head_on() {
        for (frames, text) in both(70_000, &head(0x82, 60_000)) {
            assert!((60_000..70_000).contains(&frames.bytes()));
            assert_eq!(text, None);
        }
        let all = [frame(0x82, 60_000), frame(0x89, 10), frame(0x82, 70)].concat();
        for (mut frames, _) in both(70_000, &all) {
            assert!(frames.has_grown(), "tungstenite keeps it");
            assert!(!frames.may_shrink(1_000, 5_000));
            assert!(!frames.may_shrink(5_000, 5_000));
            assert!(frames.may_shrink(6_000, 5_000));
        }
    }

    #[test]
    fn fragments_count_until_their_message_is_whole() {
        let mut bytes = [frame(0x02, 1_000), frame(0x89, 5), frame(0x00, 1_500)].concat();
        for (mut frames, _) in both(70_000, &bytes) {
            assert!(frames.bytes() >= READ_AHEAD_BYTES + 2_500);
            assert!(!frames.may_shrink(1 << 40, 5_000));
        }
        bytes.extend(frame(0x80, 0));
        for (frames, _) in both(70_000, &bytes) {
            assert_eq!(frames.bytes(), READ_AHEAD_BYTES);
        }
    }

    #[test]
    fn a_text_message_is_seen_at_its_head() {
        let before = frame(0x82, 300);
        let all = [before.clone(), frame(0x01, 200), frame(0x80, 0)].concat();
        for (_, text) in both(70_000, &all) {
            assert_eq!(text, Some(before.len() + 8));
        }
        for (_, text) in both(100, &head(0x81, 1 << 40)) {
            assert!(text.is_some());
        }
    }

    #[test]
    fn records_count_while_they_are_kept() {
        let record = |length: usize| {
            let mut bytes = vec![23, 3, 3];
            bytes.extend((length as u16).to_be_bytes());
            bytes.resize(RECORD_HEAD_BYTES + length, 0);
            bytes
        };
        let mut records = Records::default();
        records.make_room();
        assert_eq!(records.bytes(), RECORD_READ_BYTES);
        for piece in record(16_000)[..15_000].chunks(4_096) {
            records.make_room();
            records.follow(piece, false);
        }
        assert!((15_000..40_000).contains(&records.bytes()));
        records.follow(&record(16_000)[15_000..], true);
        assert!(records.is_between());
        records.make_room();
        assert_eq!(records.bytes(), RECORD_READ_BYTES);
        // A handshake message without an end.
        for _ in 0..8 {
            records.make_room();
            records.follow(&record(4_000), false);
        }
        assert!(records.bytes() > 32_000);
    }
}
