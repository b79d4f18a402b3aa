//! Messages to bytes and back. Each kind is named where PROTOCOL.md section 3 describes it.

mod hub_kinds;
mod items;
mod node_kinds;

use crate::bus::message::{Content, Message, Target};
use crate::bus::wire::{Reader, Writer};
use crate::error::{WireError, WireErrorKind};
use crate::limits::MAX_MESSAGE_BYTES;
use hub_kinds::from_hub;
use node_kinds::from_node;

/// Bytes of a message's header: `u32 length, u8 kind, u8 flags, u16 0`.
pub const HEADER_BYTES: usize = 8;

const CONTENT_BITS: u8 = 0b011;
/// resend, last, durable, snapshot: by kind.
const MARKED: u8 = 0b100;
/// quiet in sends; eight counts in `group_receipt`.
const EXTRA: u8 = 0b1000;
/// trace in sends and `deliver`.
const TRACED: u8 = 0b1_0000;

/// The messages of one frame. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    rest: &'a [u8],
}

/// The messages of `frame`, borrowed from it.
#[must_use]
pub const fn decode(frame: &[u8]) -> Batch<'_> {
    Batch { rest: frame }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<Message<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (message, rest) = match split(self.rest) {
            Ok((header, body, rest)) => (decode_body(header, body), rest),
            Err(error) => (Err(error), &[][..]),
        };
        self.rest = if message.is_err() { &[] } else { rest };
        Some(message)
    }
}

struct Header {
    kind: u8,
    flags: u8,
}

fn split(frame: &[u8]) -> Result<(Header, &[u8], &[u8]), WireError> {
    let mut reader = Reader::new(frame);
    let length = reader.u32("message length")? as usize;
    let header = Header {
        kind: reader.u8("kind")?,
        flags: reader.u8("flags")?,
    };
    let reserved = reader.u16("reserved")?;
    if reserved != 0 {
        return Err(WireError::new(
            WireErrorKind::BadValue,
            "reserved",
            u64::from(reserved),
        ));
    }
    if length > MAX_MESSAGE_BYTES {
        return Err(WireError::over(
            "message bytes",
            length as u64,
            MAX_MESSAGE_BYTES as u64,
        ));
    }
    let Some(body) = length.checked_sub(HEADER_BYTES) else {
        return Err(WireError::new(
            WireErrorKind::BadValue,
            "message length",
            length as u64,
        ));
    };
    let body = reader.take("message", body)?;
    Ok((header, body, reader.rest()))
}

impl Header {
    /// The content. `payload`: the kind has one; `allowed`: what else it may have.
    fn flags(&self, payload: bool, allowed: u8) -> Result<Content, WireError> {
        let allowed = if payload { CONTENT_BITS } else { 0 } | allowed;
        let bad = WireError::new(WireErrorKind::BadValue, "flags", u64::from(self.flags));
        if self.flags & !allowed != 0 {
            return Err(bad);
        }
        let content = match self.flags & CONTENT_BITS {
            0 => Content::Bytes,
            1 => Content::Text,
            2 => Content::Json,
            _ => return Err(bad),
        };
        Ok(content)
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

fn decode_body<'a>(header: Header, body: &'a [u8]) -> Result<Message<'a>, WireError> {
    let mut reader = Reader::new(body);
    let from = &mut reader;
    let message = if header.kind < 0x40 {
        from_node(&header, from)
    } else {
        from_hub(&header, from)
    }?;
    if !from.rest().is_empty() {
        return Err(WireError::new(
            WireErrorKind::Trailing,
            "message",
            from.rest().len() as u64,
        ));
    }
    Ok(message)
}

impl Message<'_> {
    /// Appends the message. On an error `out` is as before.
    ///
    /// # Errors
    /// `OverLimit` and `BadName`, if a field is what no receiver would accept.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let start = out.len();
        let (kind, flags) = self.kind_and_flags();
        out.extend_from_slice(&[0, 0, 0, 0, kind, flags, 0, 0]);
        let written = self.write_body(&mut Writer { out });
        let length = out.len() - start;
        let fits = written.and_then(|()| match length <= MAX_MESSAGE_BYTES {
            true => Ok(()),
            false => Err(WireError::over(
                "message bytes",
                length as u64,
                MAX_MESSAGE_BYTES as u64,
            )),
        });
        match fits {
            Ok(()) => out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes()),
            Err(_) => out.truncate(start),
        }
        fits
    }

    fn kind_and_flags(&self) -> (u8, u8) {
        let mark = |set: bool| if set { MARKED } else { 0 };
        let extra = |set: bool| if set { EXTRA } else { 0 };
        let traced = |set: bool| if set { TRACED } else { 0 };
        match self {
            Self::Hello(_) => (0x01, 0),
            Self::Send(send) => {
                let kind = match send.target {
                    _ if send.deliver_at_ms != 0 => 0x13,
                    Target::Player(_) => 0x02,
                    Target::Group(_) => 0x03,
                    Target::Broadcast(_) => 0x04,
                };
                let flags = mark(send.resend) | extra(send.quiet) | traced(send.trace);
                (kind, send.content as u8 | flags)
            }
            Self::Request { content, .. } => (0x05, *content as u8),
            Self::Reply { content, .. } => (0x06, *content as u8),
            Self::Cancel { .. } => (0x07, 0),
            Self::Login { .. } => (0x08, 0),
            Self::Register { last, .. } => (0x09, mark(*last)),
            Self::Logout { .. } => (0x0a, 0),
            Self::Ack { .. } => (0x0b, 0),
            Self::Join { durable, .. } => (0x0c, mark(*durable)),
            Self::Leave { durable, .. } => (0x0d, mark(*durable)),
            Self::Subscribe { .. } => (0x0e, 0),
            Self::Ping { .. } => (0x0f, 0),
            Self::Pong { .. } => (0x10, 0),
            Self::Bye { .. } => (0x11, 0),
            Self::Query { .. } => (0x12, 0),
            Self::Seen { .. } => (0x14, 0),
            Self::Welcome(_) => (0x41, 0),
            Self::Receipt { .. } => (0x42, 0),
            Self::GroupReport(report) => (0x43, mark(report.last) | extra(report.wide)),
            Self::Bound { .. } => (0x44, 0),
            Self::Deliver(deliver) => (0x45, deliver.content as u8 | traced(deliver.trace)),
            Self::LogoutDone { .. } => (0x46, 0),
            Self::Drop { .. } => (0x47, 0),
            Self::Forget { .. } => (0x48, 0),
            Self::Presence { snapshot, .. } => (0x49, mark(*snapshot)),
            Self::Call { content, .. } => (0x4a, *content as u8),
            Self::Answer { content, .. } => (0x4b, *content as u8),
            Self::Cancelled { .. } => (0x4c, 0),
            Self::Error { .. } => (0x4d, 0),
            Self::Joined { .. } => (0x4e, 0),
        }
    }
}

#[cfg(test)]
mod tests;
