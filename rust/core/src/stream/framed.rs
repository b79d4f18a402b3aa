//! Frames of a listener's connections: cut in the batch's arena on the way in, put together on the way out.
//!
//! A frame becomes a row of kind 0 and sequence 0. What the framing leaves out of a frame (line end,
//! delimiter, length header) it puts back when one is sent, so that an echo is byte-exact.

use super::frame::{BadFraming, FrameError, Framing, LengthField, Look, Rule};
use super::packet::{Batch, Header};

/// How far the bytes at the arena's end could be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// How many bytes were whole frames.
    pub consumed: usize,
    /// How many frames.
    pub packets: usize,
    /// Bytes after those which hold no frame's end: to be given with the next bytes.
    pub seen: usize,
    /// What the bytes after `consumed` are, if they can't become a frame.
    pub error: Option<FrameError>,
}

impl Framing {
    /// Whether frames can be sent by it too: a length header must be left out whole or not at all.
    ///
    /// # Errors
    /// The parameter that prevents it.
    pub fn check_both_ways(&self) -> Result<(), BadFraming> {
        match &self.0 {
            Rule::Length(field) if (1..field.offset + field.size).contains(&field.strip) => {
                Err(BadFraming {
                    parameter: "strip",
                    must: "0 or at least offset + size for a listener",
                })
            }
            _ => Ok(()),
        }
    }

    /// Adds a row for each whole frame of the stream that stands in the arena from `start` on. Nothing
    /// ends in its first `seen` bytes.
    pub fn decode_arena(
        &self,
        batch: &mut Batch,
        connection: u64,
        start: usize,
        seen: usize,
    ) -> Cut {
        let arena = std::mem::take(&mut batch.arena);
        let bytes = arena.get(start..).unwrap_or_default();
        let (before, mut consumed, mut seen) = (batch.len(), 0, seen);
        let mut error = None;
        while consumed < bytes.len() {
            match self.look(&bytes[consumed..], seen) {
                Ok(Look::Frame(found)) => {
                    let header = Header {
                        kind: 0,
                        sequence: 0,
                    };
                    let offset = start + consumed + found.start;
                    let length = found.end - found.start;
                    batch.push_row(connection, header, offset as u32, length as u32);
                    consumed += found.consumed;
                    seen = 0;
                }
                Ok(Look::Need(_)) => {
                    seen = bytes.len() - consumed;
                    break;
                }
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        if consumed == bytes.len() {
            seen = 0;
        }
        batch.arena = arena;
        Cut {
            consumed,
            packets: batch.len() - before,
            seen,
            error,
        }
    }

    /// Appends `payload` as a frame. Fixed lengths, and length fields that are handed on with the frame,
    /// go out as they are: they are the sender's.
    ///
    /// # Errors
    /// The frame would be over the limit, or its length over what the field can hold.
    pub fn encode(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        match &self.0 {
            Rule::Fixed(_) => {}
            Rule::Length(field) => field.encode(payload.len(), out)?,
            Rule::Delimiter { limit, .. } => check(payload.len(), *limit)?,
        }
        out.extend_from_slice(payload);
        match &self.0 {
            Rule::Delimiter { delimiter, .. } => out.extend_from_slice(delimiter),
            Rule::Fixed(_) | Rule::Length(_) => {}
        }
        Ok(())
    }
}

impl LengthField {
    /// Appends what is left out of a frame: zeros, and the length in its place.
    fn encode(&self, payload_bytes: usize, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let total = self.strip + payload_bytes;
        check(total, self.limit)?;
        let header = self.offset + self.size;
        if self.strip < header {
            return Ok(());
        }
        let value = i128::from(total as u64 - header as u64) - i128::from(self.adjustment);
        let most = u64::MAX >> (64 - 8 * self.size);
        let value = match u64::try_from(value) {
            Ok(value) if value <= most => value,
            _ => {
                return Err(FrameError::TooLong {
                    bytes: total as u64,
                    limit_bytes: most,
                });
            }
        };
        let start = out.len();
        out.resize(start + self.strip, 0);
        let place = &mut out[start + self.offset..start + header];
        if self.big_endian {
            place.copy_from_slice(&value.to_be_bytes()[8 - self.size..]);
        } else {
            place.copy_from_slice(&value.to_le_bytes()[..self.size]);
        }
        Ok(())
    }
}

fn check(bytes: usize, limit: usize) -> Result<(), FrameError> {
    if bytes <= limit {
        return Ok(());
    }
    Err(FrameError::TooLong {
        bytes: bytes as u64,
        limit_bytes: limit as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameDecoder;
    use super::*;
    use proptest::prelude::*;

    type Outcome = (Vec<Vec<u8>>, Option<FrameError>);

    /// As a connection does it: what waits goes in front of the next bytes.
    fn decode(framing: &Framing, bytes: &[u8], cuts: &[usize]) -> Outcome {
        let (mut batch, mut waiting, mut seen, mut at) = (Batch::default(), Vec::new(), 0, 0);
        let mut error = None;
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let end = cut.min(bytes.len()).max(at);
            let start = batch.arena.len();
            batch.arena.append(&mut waiting);
            batch.arena.extend_from_slice(&bytes[at..end]);
            at = end;
            let cut = framing.decode_arena(&mut batch, 7, start, seen);
            waiting = batch.arena.split_off(start + cut.consumed);
            seen = cut.seen;
            assert!(seen <= waiting.len());
            if cut.error.is_some() {
                error = cut.error;
                break;
            }
        }
        let rows = (0..batch.len()).map(|row| batch.payload(row).to_vec());
        (rows.collect(), error)
    }

    fn whole(framing: &Framing, bytes: &[u8]) -> Outcome {
        let (mut decoder, mut frames) = (FrameDecoder::new(framing.clone()), Vec::new());
        let fed = decoder.feed(bytes, |frame| frames.push(frame.to_vec()));
        (frames, fed.err())
    }

    fn field() -> impl Strategy<Value = LengthField> {
        (
            0_usize..4,
            1_usize..=8,
            any::<bool>(),
            -4_i64..4,
            0_usize..4,
        )
            .prop_map(
                |(offset, size, big_endian, adjustment, extra)| LengthField {
                    offset,
                    size,
                    big_endian,
                    adjustment,
                    strip: offset + size + extra,
                    limit: 120,
                },
            )
    }

    fn framing() -> impl Strategy<Value = Framing> {
        prop_oneof![
            3 => field().prop_map(|field| Framing::length_field(field).unwrap()),
            1 => (1_usize..30).prop_map(|limit| Framing::line(limit).unwrap()),
            1 => (proptest::collection::vec(0_u8..3, 1..4), 1_usize..30)
                .prop_map(|(delimiter, limit)| Framing::delimiter(&delimiter, limit).unwrap()),
            1 => (1_usize..20).prop_map(|length| Framing::fixed(length).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_what_the_decoder_gives(
            framing in framing(),
            bytes in proptest::collection::vec(prop_oneof![4 => 0_u8..3, 1 => 0_u8..20, 1 => Just(b'\n'), 1 => any::<u8>()], 0..250),
            mut cuts in proptest::collection::vec(0_usize..260, 0..10),
        ) {
            cuts.sort_unstable();
            let expected = whole(&framing, &bytes);
            prop_assert_eq!(decode(&framing, &bytes, &[]), expected.clone());
            prop_assert_eq!(decode(&framing, &bytes, &cuts), expected.clone());
            let each: Vec<usize> = (0..bytes.len()).collect();
            prop_assert_eq!(decode(&framing, &bytes, &each), expected);
        }

        #[test]
        fn what_is_encoded_is_decoded(
            field in field(),
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 4..80), 0..8),
        ) {
            let framing = Framing::length_field(field).unwrap();
            framing.check_both_ways().unwrap();
            let mut stream = Vec::new();
            for payload in &payloads {
                framing.encode(payload, &mut stream).unwrap();
            }
            prop_assert_eq!(decode(&framing, &stream, &[]), (payloads, None));
        }
    }

    #[test]
    fn lines_and_delimiters_come_back_as_they_were() {
        for framing in [
            Framing::line(10).unwrap(),
            Framing::delimiter(b"\r\n\r\n", 10).unwrap(),
        ] {
            let mut stream = Vec::new();
            framing.encode(b"one", &mut stream).unwrap();
            framing.encode(b"", &mut stream).unwrap();
            assert_eq!(
                decode(&framing, &stream, &[2]),
                (vec![b"one".to_vec(), vec![]], None)
            );
            assert!(framing.encode(&[b'x'; 11], &mut stream).is_err());
        }
    }

    #[test]
    fn a_length_that_does_not_fit_its_field_is_refused() {
        let field = LengthField {
            offset: 0,
            size: 1,
            big_endian: false,
            adjustment: 0,
            strip: 1,
            limit: 1 << 16,
        };
        let framing = Framing::length_field(field).unwrap();
        let mut out = Vec::new();
        assert_eq!(
            framing.encode(&[0; 256], &mut out),
            Err(FrameError::TooLong {
                bytes: 257,
                limit_bytes: 255
            })
        );
        assert!(out.is_empty());
        let partly = LengthField {
            size: 2,
            strip: 1,
            ..field
        };
        let partly = Framing::length_field(partly).unwrap();
        assert_eq!(partly.check_both_ways().unwrap_err().parameter, "strip");
    }
}
