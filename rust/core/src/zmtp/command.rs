//! Commands in the clear: READY and ERROR of the NULL mechanism, PING and PONG, and metadata, which
//! CURVE sends in its boxes (RFC 37, "Commands").

use super::error::ZmtpError;
use super::frame::{COMMAND, push_head};
use super::limits::{MAX_IDENTITY_BYTES, MAX_PING_CONTEXT_BYTES, MAX_PROPERTIES};

/// A command's name and what follows it.
pub(super) fn split_name(body: &[u8]) -> Result<(&[u8], &[u8]), ZmtpError> {
    let (&length, rest) = body.split_first().ok_or(ZmtpError::Malformed("command"))?;
    if length == 0 || rest.len() < usize::from(length) {
        return Err(ZmtpError::Malformed("command"));
    }
    Ok(rest.split_at(usize::from(length)))
}

/// What of a peer's metadata matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub socket_type: String,
    pub identity: Vec<u8>,
}

impl Metadata {
    /// Names are compared without regard to case; what we don't know is skipped.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, ZmtpError> {
        let mut metadata = Self::default();
        for _ in 0..MAX_PROPERTIES {
            if bytes.is_empty() {
                return Ok(metadata);
            }
            let (name, value, rest) = property(bytes).ok_or(ZmtpError::Malformed("metadata"))?;
            if name.eq_ignore_ascii_case(b"Socket-Type") {
                metadata.socket_type =
                    String::from_utf8_lossy(&value[..value.len().min(16)]).into_owned();
            } else if name.eq_ignore_ascii_case(b"Identity") {
                if value.len() > MAX_IDENTITY_BYTES {
                    return Err(ZmtpError::Malformed("identity"));
                }
                metadata.identity = value.to_vec();
            }
            bytes = rest;
        }
        if bytes.is_empty() {
            Ok(metadata)
        } else {
            Err(ZmtpError::Malformed("metadata: too many properties"))
        }
    }

    /// As libzmq writes it: the type first, an identity always.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_property(out, b"Socket-Type", self.socket_type.as_bytes());
        push_property(out, b"Identity", &self.identity);
    }
}

fn property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&name_bytes, rest) = bytes.split_first()?;
    if name_bytes == 0 {
        return None;
    }
    let (name, rest) = rest.split_at_checked(usize::from(name_bytes))?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (value, rest) = rest.split_at_checked(length)?;
    Some((name, value, rest))
}

fn push_property(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    // Ours: short constants and an identity of at most 255 bytes.
    out.push(u8::try_from(name.len()).expect("our names are short"));
    out.extend_from_slice(name);
    out.extend_from_slice(
        &u32::try_from(value.len())
            .expect("our values are short")
            .to_be_bytes(),
    );
    out.extend_from_slice(value);
}

/// Appends READY of the NULL mechanism.
pub(super) fn push_ready(out: &mut Vec<u8>, metadata: &Metadata) {
    let mut body = b"\x05READY".to_vec();
    metadata.encode(&mut body);
    push_head(out, COMMAND, body.len());
    out.extend_from_slice(&body);
}

/// Appends ERROR, in the clear under every mechanism.
pub(super) fn push_error(out: &mut Vec<u8>, reason: &str) {
    let reason = &reason.as_bytes()[..reason.len().min(255)];
    push_head(out, COMMAND, 7 + reason.len());
    out.extend_from_slice(b"\x05ERROR");
    out.push(u8::try_from(reason.len()).expect("cut above"));
    out.extend_from_slice(reason);
}

/// The error that an ERROR command is to its receiver.
pub(super) fn decode_error(data: &[u8]) -> ZmtpError {
    match data.split_first() {
        Some((&length, reason)) if usize::from(length) <= reason.len() => {
            let reason = String::from_utf8_lossy(&reason[..usize::from(length)]);
            ZmtpError::Refused(reason.chars().filter(|c| !c.is_control()).collect())
        }
        _ => ZmtpError::Malformed("ERROR"),
    }
}

/// A PING's time to live in milliseconds and its context.
pub(super) fn decode_ping(data: &[u8]) -> Result<(u64, &[u8]), ZmtpError> {
    match data.split_first_chunk::<2>() {
        Some((ttl, context)) if context.len() <= MAX_PING_CONTEXT_BYTES => {
            Ok((u64::from(u16::from_be_bytes(*ttl)) * 100, context))
        }
        _ => Err(ZmtpError::Malformed("PING")),
    }
}

/// A PONG's body.
pub(super) fn pong(context: &[u8]) -> Vec<u8> {
    [b"\x04PONG", context].concat()
}

/// A PING's body, without a time to live: the bus has its own heartbeats.
pub(super) fn ping() -> Vec<u8> {
    b"\x04PING\0\0".to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn metadata_comes_back_and_names_ignore_case() {
        let ours = Metadata {
            socket_type: "DEALER".into(),
            identity: b"me".to_vec(),
        };
        let mut bytes = b"\x05X-any\0\0\0\x01?".to_vec();
        ours.encode(&mut bytes);
        assert_eq!(Metadata::decode(&bytes), Ok(ours));
        assert_eq!(
            Metadata::decode(b"\x08idENTITY\0\0\0\x01q")
                .unwrap()
                .identity,
            b"q"
        );
        assert_eq!(
            Metadata::decode(b"\x01a\0\0\0\x02q").unwrap_err().kind(),
            "malformed"
        );
        let many = b"\x01a\0\0\0\0".repeat(MAX_PROPERTIES + 1);
        assert_eq!(Metadata::decode(&many).unwrap_err().kind(), "malformed");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes: Vec<u8>) {
            let _ = Metadata::decode(&bytes);
            let _ = split_name(&bytes);
            let _ = decode_ping(&bytes);
            let _ = decode_error(&bytes);
        }
    }
}
