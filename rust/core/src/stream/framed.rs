//! Frames on the way out: put together for a listener's connections.
//!
//! What the framing leaves out of a frame on the way in (line end, delimiter, length header) it
//! puts back when one is sent, so that an echo is byte-exact.

use super::frame::{BadFraming, FrameError, Framing, LengthField, Rule};

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

    fn decode(framing: &Framing, bytes: &[u8]) -> Outcome {
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

    proptest! {
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
            prop_assert_eq!(decode(&framing, &stream), (payloads, None));
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
                decode(&framing, &stream),
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
