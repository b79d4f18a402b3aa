//! Frame heads (RFC 37, "Framing"): a flags byte, then one length byte or eight.

use super::error::ZmtpError;

pub(super) const MORE: u8 = 0x01;
pub(super) const LONG: u8 = 0x02;
pub(super) const COMMAND: u8 = 0x04;

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub command: bool,
    pub more: bool,
    pub head_bytes: usize,
    pub body_bytes: usize,
}

impl Head {
    /// The head at the start of `bytes`, `None` while it is not whole. The limits count bodies:
    /// nothing is kept of a frame beyond them.
    pub fn decode(
        bytes: &[u8],
        max_message: usize,
        max_command: usize,
    ) -> Result<Option<Self>, ZmtpError> {
        let Some(&flags) = bytes.first() else {
            return Ok(None);
        };
        let command = flags & COMMAND != 0;
        let more = flags & MORE != 0;
        if flags & !(MORE | LONG | COMMAND) != 0 || (command && more) {
            return Err(ZmtpError::BadFlags(flags));
        }
        let (head_bytes, claimed) = if flags & LONG == 0 {
            match bytes.get(1) {
                Some(&short) => (2, u64::from(short)),
                None => return Ok(None),
            }
        } else {
            match bytes[1..].first_chunk::<8>() {
                Some(long) => (9, u64::from_be_bytes(*long)),
                None => return Ok(None),
            }
        };
        let limit = if command { max_command } else { max_message };
        match usize::try_from(claimed) {
            Ok(body_bytes) if body_bytes <= limit => Ok(Some(Self {
                command,
                more,
                head_bytes,
                body_bytes,
            })),
            _ => Err(ZmtpError::FrameTooLarge {
                bytes: claimed,
                limit,
            }),
        }
    }

    /// How many bytes of a head that is not whole must be there to read on.
    pub fn need(prefix: &[u8]) -> usize {
        match prefix.first() {
            None => 1,
            Some(flags) if flags & LONG != 0 => 9,
            Some(_) => 2,
        }
    }
}

/// Appends the head of a frame with `body_bytes` to follow.
pub(super) fn push_head(out: &mut Vec<u8>, flags: u8, body_bytes: usize) {
    match u8::try_from(body_bytes) {
        Ok(short) => out.extend_from_slice(&[flags, short]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend_from_slice(&(body_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_reserved_bits_and_lengths_over_the_limit() {
        assert_eq!(Head::decode(&[0x08, 0], 9, 9), Err(ZmtpError::BadFlags(8)));
        assert_eq!(Head::decode(&[0x05, 0], 9, 9), Err(ZmtpError::BadFlags(5)));
        let huge = [2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let error = Head::decode(&huge, 9, 9).unwrap_err();
        assert_eq!(
            error,
            ZmtpError::FrameTooLarge {
                bytes: u64::MAX,
                limit: 9
            }
        );
        assert_eq!(
            Head::decode(&[4, 8], 100, 7).unwrap_err().kind(),
            "frame_too_large"
        );
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read(length in 0usize..100_000, command: bool) {
            let mut out = Vec::new();
            push_head(&mut out, if command { COMMAND } else { 0 }, length);
            for end in 0..out.len() {
                prop_assert_eq!(Head::decode(&out[..end], usize::MAX, usize::MAX).unwrap(), None);
            }
            let head = Head::decode(&out, usize::MAX, usize::MAX).unwrap().unwrap();
            prop_assert_eq!(head.body_bytes, length);
            prop_assert_eq!(head.head_bytes, out.len());
            prop_assert_eq!(head.command, command);
        }
    }
}
