//! Frames of a byte stream, by the rules in use everywhere: length field, line, delimiter, fixed length.
//!
//! A [`Framing`] says where the next frame of a byte sequence is; a [`FrameDecoder`] keeps what is not
//! whole yet. Bytes that are whole frames as they come in are never copied: they are handed on in place.

use std::fmt;

use super::ring::RingBuffer;

/// The largest frame limit that may be asked for: offsets in a batch are u32.
pub const LARGEST_FRAME_BYTES: usize = 1 << 30;
/// The longest delimiter.
pub const LONGEST_DELIMITER_BYTES: usize = 64;
/// The furthest a length field may stand from the frame's begin.
pub const FURTHEST_LENGTH_FIELD: usize = 1024;
/// How many bytes are buffered at a time while the length of the frame is not known.
const PIECE_BYTES: usize = 512;

/// Why bytes are no frame. The stream is out of step and gives no more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A frame over the limit; for lines and delimiters `bytes` is what was seen without an end.
    TooLong {
        /// The frame's length.
        bytes: u64,
        /// The most bytes a frame may have.
        limit_bytes: u64,
    },
    /// A length field that can't be one: the frame would end before its own header.
    BadLength {
        /// The value of the length field.
        value: u64,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, limit_bytes } => {
                write!(f, "frame of {bytes} bytes: limit {limit_bytes}")
            }
            Self::BadLength { value } => write!(
                f,
                "length field {value}: the frame would end before its header"
            ),
        }
    }
}

impl std::error::Error for FrameError {}

/// Parameters that describe no framing: which, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFraming {
    /// The parameter.
    pub parameter: &'static str,
    /// What it has to be.
    pub must: &'static str,
}

impl fmt::Display for BadFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.parameter, self.must)
    }
}

impl std::error::Error for BadFraming {}

/// A length field by parameters: gonet (2 bytes), leaf (2 or 4), netty (all of them).
///
/// The whole frame is `offset + size` header bytes and then `value + adjustment` more; its first
/// `strip` bytes are left out of what is handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthField {
    /// Bytes before the length field.
    pub offset: usize,
    /// Bytes of the length field, 1 to 8.
    pub size: usize,
    /// Whether its most significant byte comes first.
    pub big_endian: bool,
    /// Added to its value to get the bytes that follow it (negative when it counts the header too).
    pub adjustment: i64,
    /// How many bytes of the frame are not handed on.
    pub strip: usize,
    /// The most bytes of a whole frame.
    pub limit: usize,
}

/// How a stream is cut into frames. Made by its constructors, which check the parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing(pub(super) Rule);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    Length(LengthField),
    Delimiter {
        delimiter: Vec<u8>,
        limit: usize,
        carriage_return: bool,
    },
    Fixed(usize),
}

/// Where a frame is in the bytes that were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) consumed: usize,
}

/// What looking gave: a frame, or how many bytes there must be before it is worth looking again.
pub(super) enum Look {
    Frame(Found),
    Need(usize),
}

fn check_limit(limit: usize) -> Result<(), BadFraming> {
    if (1..=LARGEST_FRAME_BYTES).contains(&limit) {
        return Ok(());
    }
    Err(BadFraming {
        parameter: "limit",
        must: "1 to 1073741824",
    })
}

impl Framing {
    /// By a length field.
    ///
    /// # Errors
    /// A parameter is out of its range.
    pub fn length_field(field: LengthField) -> Result<Self, BadFraming> {
        check_limit(field.limit)?;
        if !(1..=8).contains(&field.size) {
            return Err(BadFraming {
                parameter: "size",
                must: "1 to 8",
            });
        }
        if field.offset > FURTHEST_LENGTH_FIELD {
            return Err(BadFraming {
                parameter: "offset",
                must: "0 to 1024",
            });
        }
        if field.offset + field.size > field.limit {
            return Err(BadFraming {
                parameter: "limit",
                must: "at least offset + size",
            });
        }
        if field.strip > field.limit {
            return Err(BadFraming {
                parameter: "strip",
                must: "at most the limit",
            });
        }
        Ok(Self(Rule::Length(field)))
    }

    /// By lines: they end with `\n` or `\r\n`, which is not handed on.
    ///
    /// # Errors
    /// The limit is out of its range.
    pub fn line(limit: usize) -> Result<Self, BadFraming> {
        check_limit(limit)?;
        Ok(Self(Rule::Delimiter {
            delimiter: b"\n".to_vec(),
            limit,
            carriage_return: true,
        }))
    }

    /// By a delimiter, which is not handed on.
    ///
    /// # Errors
    /// The limit or the delimiter's length is out of its range.
    pub fn delimiter(delimiter: &[u8], limit: usize) -> Result<Self, BadFraming> {
        check_limit(limit)?;
        if !(1..=LONGEST_DELIMITER_BYTES).contains(&delimiter.len()) {
            return Err(BadFraming {
                parameter: "delimiter",
                must: "1 to 64 bytes long",
            });
        }
        Ok(Self(Rule::Delimiter {
            delimiter: delimiter.to_vec(),
            limit,
            carriage_return: false,
        }))
    }

    /// Frames of `length` bytes each.
    ///
    /// # Errors
    /// The length is out of its range.
    pub fn fixed(length: usize) -> Result<Self, BadFraming> {
        check_limit(length)?;
        Ok(Self(Rule::Fixed(length)))
    }

    /// The most bytes that can be there without being a frame or an error, and one more.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        match &self.0 {
            Rule::Length(field) => field.limit,
            Rule::Delimiter {
                delimiter, limit, ..
            } => limit + delimiter.len(),
            Rule::Fixed(length) => *length,
        }
    }

    /// Looks for a frame at the front; nothing ends in the first `seen` bytes.
    pub(super) fn look(&self, bytes: &[u8], seen: usize) -> Result<Look, FrameError> {
        match &self.0 {
            Rule::Length(field) => field.look(bytes),
            Rule::Delimiter {
                delimiter,
                limit,
                carriage_return,
            } => look_delimiter(bytes, seen, delimiter, *limit, *carriage_return),
            Rule::Fixed(length) if bytes.len() < *length => Ok(Look::Need(*length)),
            Rule::Fixed(length) => Ok(Look::Frame(Found {
                start: 0,
                end: *length,
                consumed: *length,
            })),
        }
    }
}

impl LengthField {
    fn look(&self, bytes: &[u8]) -> Result<Look, FrameError> {
        let header = self.offset + self.size;
        let Some(field) = bytes.get(self.offset..header) else {
            return Ok(Look::Need(header));
        };
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = if self.big_endian {
            field.iter().fold(0, fold)
        } else {
            field.iter().rev().fold(0, fold)
        };
        // i128 holds any u64 and i64 sum.
        let total = i128::from(value) + i128::from(self.adjustment) + header as i128;
        if total < header.max(self.strip) as i128 {
            return Err(FrameError::BadLength { value });
        }
        let limit_bytes = self.limit as u64;
        let bytes_long = u64::try_from(total).unwrap_or(u64::MAX);
        if bytes_long > limit_bytes {
            return Err(FrameError::TooLong {
                bytes: bytes_long,
                limit_bytes,
            });
        }
        let total = bytes_long as usize;
        if bytes.len() < total {
            return Ok(Look::Need(total));
        }
        Ok(Look::Frame(Found {
            start: self.strip,
            end: total,
            consumed: total,
        }))
    }
}

fn look_delimiter(
    bytes: &[u8],
    seen: usize,
    delimiter: &[u8],
    limit: usize,
    carriage_return: bool,
) -> Result<Look, FrameError> {
    // The delimiter may have begun in what was seen.
    let from = seen.saturating_sub(delimiter.len() - 1);
    let window = &bytes[from..bytes.len().min(limit + delimiter.len()).max(from)];
    if let Some(at) = memchr::memmem::find(window, delimiter) {
        let end = from + at;
        let line = if carriage_return && bytes[..end].ends_with(b"\r") {
            end - 1
        } else {
            end
        };
        return Ok(Look::Frame(Found {
            start: 0,
            end: line,
            consumed: end + delimiter.len(),
        }));
    }
    if bytes.len() >= limit + delimiter.len() {
        return Err(FrameError::TooLong {
            bytes: (limit + 1) as u64,
            limit_bytes: limit as u64,
        });
    }
    Ok(Look::Need(bytes.len() + 1))
}

/// Cuts a stream that comes in pieces.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    framing: Framing,
    waiting: RingBuffer,
    seen: usize,
    error: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder at the begin of a stream.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let waiting = RingBuffer::new(framing.most_bytes() + PIECE_BYTES);
        Self {
            framing,
            waiting,
            seen: 0,
            error: None,
        }
    }

    /// How it cuts.
    #[must_use]
    pub const fn framing(&self) -> &Framing {
        &self.framing
    }

    /// How many bytes wait for the rest of their frame.
    #[must_use]
    pub const fn waiting_bytes(&self) -> usize {
        self.waiting.len()
    }

    /// How many bytes its storage for them has.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.waiting.capacity()
    }

    /// Gives storage back that was not needed for a while; see [`RingBuffer::tick`].
    pub fn tick(&mut self, now_ms: u64, quiet_ms: u64) {
        self.waiting.tick(now_ms, quiet_ms);
    }

    /// What ended the stream, if something did.
    #[must_use]
    pub const fn error(&self) -> Option<FrameError> {
        self.error
    }

    /// Takes the next bytes of the stream and hands each frame that is whole to `sink`.
    ///
    /// # Errors
    /// [`FrameError`] once the stream is no sequence of frames; the frames before it were handed on.
    /// From then on every call gives the same error.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Result<(), FrameError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let fed = self
            .feed_waiting(bytes, &mut sink)
            .and_then(|rest| self.feed_whole(rest, &mut sink));
        if let Err(error) = fed {
            self.error = Some(error);
            self.waiting = RingBuffer::new(0);
        }
        fed
    }

    /// Completes the frame that waits; gives back the bytes after it.
    fn feed_waiting<'a>(
        &mut self,
        mut bytes: &'a [u8],
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<&'a [u8], FrameError> {
        while !self.waiting.is_empty() {
            let waited = self.waiting.len();
            match self.framing.look(self.waiting.contiguous(), self.seen)? {
                Look::Frame(found) => {
                    sink(&self.waiting.contiguous()[found.start..found.end]);
                    // What waited before was no frame, so the frame ends in the piece added last.
                    self.waiting.consume(found.consumed);
                    self.seen = 0;
                }
                Look::Need(_) if bytes.is_empty() => {
                    self.seen = waited;
                    break;
                }
                Look::Need(need) => {
                    self.seen = waited;
                    let exact = matches!(self.framing.0, Rule::Length(_) | Rule::Fixed(_));
                    let piece = if exact { need - waited } else { PIECE_BYTES };
                    let (now, later) = bytes.split_at(piece.min(bytes.len()));
                    // Never full: most_bytes() without a frame is an error of look().
                    if let Err(full) = self.waiting.push(now) {
                        return Err(too_long(full.wanted_bytes, full.limit_bytes));
                    }
                    bytes = later;
                }
            }
        }
        Ok(bytes)
    }

    /// Frames in place; what is not whole goes into the buffer.
    fn feed_whole(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<(), FrameError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.framing.look(rest, 0)? {
                Look::Frame(found) => {
                    sink(&rest[found.start..found.end]);
                    at += found.consumed;
                }
                Look::Need(_) => {
                    self.seen = rest.len();
                    return self
                        .waiting
                        .push(rest)
                        .map_err(|full| too_long(full.wanted_bytes, full.limit_bytes));
                }
            }
        }
        Ok(())
    }
}

fn too_long(bytes: usize, limit_bytes: usize) -> FrameError {
    FrameError::TooLong {
        bytes: bytes as u64,
        limit_bytes: limit_bytes as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Outcome = (Vec<Vec<u8>>, Option<FrameError>);

    fn decode(framing: &Framing, bytes: &[u8], cuts: &[usize]) -> Outcome {
        let mut decoder = FrameDecoder::new(framing.clone());
        let (mut frames, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let end = cut.min(bytes.len()).max(at);
            let _ = decoder.feed(&bytes[at..end], |frame| frames.push(frame.to_vec()));
            at = end;
        }
        (frames, decoder.error())
    }

    /// The naive model: tries every prefix of the stream, one byte more at a time.
    fn model(framing: &Framing, mut bytes: &[u8]) -> Outcome {
        let mut frames = Vec::new();
        'next: loop {
            for length in 0..=bytes.len() {
                match model_one(framing, &bytes[..length]) {
                    Err(error) => return (frames, Some(error)),
                    Ok(Some(frame)) => {
                        frames.push(frame);
                        bytes = &bytes[length..];
                        continue 'next;
                    }
                    Ok(None) => {}
                }
            }
            return (frames, None);
        }
    }

    /// Whether these bytes are exactly one frame, can still become one, or can't.
    fn model_one(framing: &Framing, bytes: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        match &framing.0 {
            Rule::Fixed(length) => Ok((bytes.len() == *length).then(|| bytes.to_vec())),
            Rule::Delimiter {
                delimiter,
                limit,
                carriage_return,
            } => {
                if let Some(frame) = bytes.strip_suffix(delimiter.as_slice()) {
                    let line = frame.strip_suffix(b"\r").filter(|_| *carriage_return);
                    return Ok(Some(line.unwrap_or(frame).to_vec()));
                }
                if bytes.len() >= limit + delimiter.len() {
                    return Err(FrameError::TooLong {
                        bytes: *limit as u64 + 1,
                        limit_bytes: *limit as u64,
                    });
                }
                Ok(None)
            }
            Rule::Length(field) => {
                let header = field.offset + field.size;
                if bytes.len() < header {
                    return Ok(None);
                }
                let mut digits = bytes[field.offset..header].to_vec();
                if !field.big_endian {
                    digits.reverse();
                }
                let value = digits
                    .iter()
                    .fold(0_u64, |value, digit| value * 256 + u64::from(*digit));
                let total = i128::from(value) + i128::from(field.adjustment) + header as i128;
                if total < header as i128 || total < field.strip as i128 {
                    return Err(FrameError::BadLength { value });
                }
                if total > field.limit as i128 {
                    let bytes = u64::try_from(total).unwrap_or(u64::MAX);
                    return Err(FrameError::TooLong {
                        bytes,
                        limit_bytes: field.limit as u64,
                    });
                }
                Ok((bytes.len() as i128 == total).then(|| bytes[field.strip..].to_vec()))
            }
        }
    }

    fn framing() -> impl Strategy<Value = Framing> {
        let field = (
            0_usize..4,
            1_usize..=8,
            any::<bool>(),
            -12_i64..12,
            0_usize..12,
            12_usize..40,
        )
            .prop_map(|(offset, size, big_endian, adjustment, strip, limit)| {
                let field = LengthField {
                    offset,
                    size,
                    big_endian,
                    adjustment,
                    strip,
                    limit,
                };
                Framing::length_field(field).unwrap()
            });
        prop_oneof![
            field,
            (1_usize..30).prop_map(|limit| Framing::line(limit).unwrap()),
            (proptest::collection::vec(0_u8..3, 1..4), 1_usize..30)
                .prop_map(|(delimiter, limit)| Framing::delimiter(&delimiter, limit).unwrap()),
            (1_usize..20).prop_map(|length| Framing::fixed(length).unwrap()),
        ]
    }

    /// Few different bytes, so that delimiters, lengths that fit and line ends really occur.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => 0_u8..3, 2 => 0_u8..20, 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => any::<u8>()];
        proptest::collection::vec(byte, 0..250)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_split_gives_what_the_model_gives(
            framing in framing(),
            bytes in stream(),
            mut cuts in proptest::collection::vec(0_usize..260, 0..10),
        ) {
            cuts.sort_unstable();
            let expected = model(&framing, &bytes);
            prop_assert_eq!(decode(&framing, &bytes, &[]), expected.clone());
            prop_assert_eq!(decode(&framing, &bytes, &cuts), expected.clone());
            let each: Vec<usize> = (0..bytes.len()).collect();
            prop_assert_eq!(decode(&framing, &bytes, &each), expected);
        }
    }

    #[test]
    fn cuts_lines() {
        let framing = Framing::line(8).unwrap();
        let (frames, error) = decode(&framing, b"one\r\n\ntwo\nlonger than 8", &[2, 4, 7]);
        assert_eq!(frames, [&b"one"[..], b"", b"two"]);
        assert_eq!(
            error,
            Some(FrameError::TooLong {
                bytes: 9,
                limit_bytes: 8
            })
        );
    }

    #[test]
    fn cuts_large_frames_that_come_in_pieces() {
        let field = LengthField {
            offset: 0,
            size: 4,
            big_endian: false,
            adjustment: 0,
            strip: 4,
            limit: 1 << 20,
        };
        let framing = Framing::length_field(field).unwrap();
        let payload = vec![7_u8; 500_000];
        let mut bytes = 500_000_u32.to_le_bytes().to_vec();
        bytes.extend(&payload);
        let twice = [bytes.clone(), bytes].concat();
        let cuts: Vec<usize> = (0..twice.len()).step_by(1447).collect();
        assert_eq!(
            decode(&framing, &twice, &cuts),
            (vec![payload.clone(), payload], None)
        );
    }

    #[test]
    fn says_which_parameter_is_wrong() {
        assert_eq!(Framing::fixed(0).unwrap_err().parameter, "limit");
        assert_eq!(
            Framing::delimiter(b"", 10).unwrap_err().parameter,
            "delimiter"
        );
        let field = LengthField {
            offset: 0,
            size: 9,
            big_endian: true,
            adjustment: 0,
            strip: 0,
            limit: 100,
        };
        assert_eq!(
            Framing::length_field(field).unwrap_err().to_string(),
            "size must be 1 to 8"
        );
    }
}
