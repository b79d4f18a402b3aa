//! Messages to bytes and back. Each kind is named where PROTOCOL.md section 3 describes it.

use crate::bus::message::{
    Ack, AnswerStatus, Bound, Claim, Content, Deliver, ErrorCode, GroupReport, Hello, Member,
    Message, MessageId, Number, Outcome, Policy, Presence, PresenceKind, Receipt, ReportEntry,
    Scope, Send, SlotRange, Target, Welcome,
};
use crate::bus::wire::{Item, Reader, Writer};
use crate::error::{WireError, WireErrorKind};
use crate::limits::{
    MAX_KEY_BYTES, MAX_LIST_ITEMS, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES, MAX_REPORT_ENTRIES,
    MAX_ROLES, MAX_TEXT_BYTES,
};

/// Bytes of a message's header: `u32 length, u8 kind, u8 flags, u16 0`.
pub const HEADER_BYTES: usize = 8;

const CONTENT_BITS: u8 = 0b011;
/// resend, last, durable, snapshot: by kind.
const MARKED: u8 = 0b100;

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
    /// The content, and whether bit 2 is set. `payload`: the kind has a content; `marked`: it has a bit 2.
    fn flags(&self, payload: bool, marked: bool) -> Result<(Content, bool), WireError> {
        let allowed = if payload { CONTENT_BITS } else { 0 } | if marked { MARKED } else { 0 };
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
        Ok((content, self.flags & MARKED != 0))
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

fn from_node<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Message<'a>, WireError> {
    Ok(match header.kind {
        0x01 => {
            header.flags(false, false)?;
            Message::Hello(read_hello(from)?)
        }
        0x02..=0x04 => Message::Send(read_send(header, from)?),
        0x05 => {
            let (content, _) = header.flags(true, false)?;
            let (call, deadline_ms) = (from.u64("call")?, from.u32("deadline")?);
            let service = from.name("service")?;
            Message::Request {
                call,
                deadline_ms,
                service,
                content,
                payload: payload(from)?,
            }
        }
        0x06 => {
            let (content, _) = header.flags(true, false)?;
            let (call, ok) = (from.u64("call")?, boolean(from, "ok")?);
            Message::Reply {
                call,
                ok,
                content,
                payload: payload(from)?,
            }
        }
        0x12 => {
            header.flags(false, false)?;
            let (call, what) = (from.u64("call")?, from.u8("what")?);
            Message::Query {
                call,
                what,
                argument: from.text("argument", MAX_TEXT_BYTES)?,
            }
        }
        0x08..=0x0d => read_hosting(header, from)?,
        kind => {
            header.flags(false, false)?;
            match kind {
                0x07 => Message::Cancel {
                    call: from.u64("call")?,
                },
                0x0e => Message::Subscribe {
                    topics: from.u8("topics")?,
                },
                0x0f => Message::Ping {
                    nonce: from.u64("nonce")?,
                    low: from.u64("low")?,
                },
                0x10 => Message::Pong {
                    nonce: from.u64("nonce")?,
                    low: from.u64("low")?,
                },
                0x11 => Message::Bye {
                    low: from.u64("low")?,
                },
                _ => {
                    return Err(WireError::new(
                        WireErrorKind::UnknownKind,
                        "kind",
                        u64::from(kind),
                    ));
                }
            }
        }
    })
}

fn read_hosting<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Message<'a>, WireError> {
    let marked = matches!(header.kind, 0x09 | 0x0c | 0x0d);
    let (_, mark) = header.flags(false, marked)?;
    Ok(match header.kind {
        0x08 => Message::Login {
            claims: from.list("logins", MAX_LIST_ITEMS)?,
        },
        0x09 => Message::Register {
            last: mark,
            claims: from.list("registrations", MAX_LIST_ITEMS)?,
        },
        0x0a => {
            let login = from.u64("login")?;
            Message::Logout {
                login,
                player: from.name("player")?,
                cursor: from.list("cursor", MAX_LIST_ITEMS)?,
            }
        }
        0x0b => Message::Ack {
            acks: from.list("acks", MAX_LIST_ITEMS)?,
        },
        _ => {
            let (request, durable) = (from.u64("request")?, mark);
            let members = from.list("members", MAX_LIST_ITEMS)?;
            match header.kind {
                0x0c => Message::Join {
                    request,
                    durable,
                    members,
                },
                _ => Message::Leave {
                    request,
                    durable,
                    members,
                },
            }
        }
    })
}

fn from_hub<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Message<'a>, WireError> {
    let payload_kind = matches!(header.kind, 0x45 | 0x4a | 0x4b);
    let marked = matches!(header.kind, 0x43 | 0x49);
    let (content, mark) = header.flags(payload_kind, marked)?;
    Ok(match header.kind {
        0x41 => Message::Welcome(read_welcome(from)?),
        0x42 => Message::Receipt {
            receipts: from.list("receipts", MAX_LIST_ITEMS)?,
        },
        0x43 => Message::GroupReport(read_report(mark, from)?),
        0x44 => Message::Bound {
            bound: from.list("bound", MAX_LIST_ITEMS)?,
        },
        0x45 => {
            let (id, policy) = (MessageId::read(from)?, policy(from)?);
            let targets = from.list("targets", MAX_LIST_ITEMS)?;
            Message::Deliver(Deliver {
                id,
                policy,
                content,
                targets,
                payload: payload(from)?,
            })
        }
        0x46 => {
            let login = from.u64("login")?;
            Message::LogoutDone {
                login,
                player: from.name("player")?,
            }
        }
        0x47 => {
            let login = from.u64("login")?;
            Message::Drop {
                login,
                player: from.name("player")?,
                why: from.text("why", MAX_TEXT_BYTES)?,
            }
        }
        0x48 => {
            let (binding, up_to) = (from.u64("binding")?, MessageId::read(from)?);
            Message::Forget {
                binding,
                up_to,
                player: from.name("player")?,
            }
        }
        0x49 => Message::Presence {
            snapshot: mark,
            events: from.list("events", MAX_LIST_ITEMS)?,
        },
        0x4a => {
            let (call, deadline_ms) = (from.u64("call")?, from.u32("deadline")?);
            let (caller, service) = (from.name("from")?, from.name("service")?);
            Message::Call {
                call,
                deadline_ms,
                from: caller,
                service,
                content,
                payload: payload(from)?,
            }
        }
        0x4b => {
            let (call, status) = (from.u64("call")?, answer_status(from)?);
            Message::Answer {
                call,
                status,
                content,
                payload: payload(from)?,
            }
        }
        0x4c => Message::Cancelled {
            call: from.u64("call")?,
        },
        0x4d => Message::Error {
            code: error_code(from)?,
            text: from.text("text", MAX_TEXT_BYTES)?,
        },
        0x4e => {
            let (request, ok) = (from.u64("request")?, boolean(from, "ok")?);
            Message::Joined {
                request,
                ok,
                detail: from.text("detail", MAX_TEXT_BYTES)?,
            }
        }
        kind => {
            return Err(WireError::new(
                WireErrorKind::UnknownKind,
                "kind",
                u64::from(kind),
            ));
        }
    })
}

fn read_hello<'a>(from: &mut Reader<'a>) -> Result<Hello<'a>, WireError> {
    Ok(Hello {
        version_min: from.u16("version_min")?,
        version_max: from.u16("version_max")?,
        node_key: from.u64("node_key")?,
        epoch: from.u64("epoch")?,
        connection: from.u64("connection")?,
        highest_hub_epoch: from.u32("highest_hub_epoch")?,
        low: from.u64("low")?,
        features: from.u64("features")?,
        name: from.name("node name")?,
        roles: from.list("roles", MAX_ROLES)?,
    })
}

fn read_send<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Send<'a>, WireError> {
    let (content, resend) = header.flags(true, true)?;
    let (seq, low, deadline_ms) = (from.u64("seq")?, from.u64("low")?, from.u64("deadline")?);
    let policy = policy(from)?;
    let target = match header.kind {
        0x02 => Target::Player(from.name("player")?),
        0x03 => Target::Group(from.name("group")?),
        _ => Target::Broadcast(scope(from)?),
    };
    let key = from.text("key", MAX_KEY_BYTES)?;
    Ok(Send {
        seq,
        low,
        deadline_ms,
        policy,
        resend,
        content,
        target,
        key,
        payload: payload(from)?,
    })
}

fn read_welcome<'a>(from: &mut Reader<'a>) -> Result<Welcome<'a>, WireError> {
    Ok(Welcome {
        version: from.u16("version")?,
        hub_epoch: from.u32("hub_epoch")?,
        heartbeat_ms: from.u32("heartbeat")?,
        dead_ms: from.u32("dead")?,
        spread_ms: from.u32("spread")?,
        max_payload: from.u32("max_payload")?,
        window_messages: from.u32("window_messages")?,
        window_bytes: from.u32("window_bytes")?,
        slots: from.list("slots", MAX_LIST_ITEMS)?,
    })
}

fn read_report<'a>(last: bool, from: &mut Reader<'a>) -> Result<GroupReport<'a>, WireError> {
    let seq = from.u64("seq")?;
    let mut counts = [0; 7];
    for count in &mut counts {
        *count = from.u32("counts")?;
    }
    let omitted = from.u32("omitted")?;
    Ok(GroupReport {
        seq,
        last,
        counts,
        omitted,
        entries: from.list("entries", MAX_REPORT_ENTRIES)?,
    })
}

fn payload<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    from.bytes("payload bytes", MAX_PAYLOAD_BYTES)
}

macro_rules! enumeration {
    ($name:ident: $read:ident $raw:literal -> $kind:ident { $($value:literal $variant:ident),* }) => {
        fn $name(from: &mut Reader<'_>) -> Result<$kind, WireError> {
            Ok(match from.$read($raw)? {
                $($value => $kind::$variant,)*
                other => return Err(WireError::new(WireErrorKind::BadValue, $raw, u64::from(other))),
            })
        }
    };
}

enumeration!(policy: u8 "policy" -> Policy { 0 MustDeliver, 1 Latest, 2 Droppable });
enumeration!(scope: u8 "scope" -> Scope { 0 Players, 1 Nodes });
enumeration!(outcome: u8 "outcome" -> Outcome { 1 Delivered, 2 Stored, 3 Expired, 4 Refused, 5 Busy, 6 Sent, 7 Dropped });
enumeration!(answer_status: u8 "status" -> AnswerStatus { 0 Ok, 1 Failed, 2 NoSuchService, 3 Unknown, 4 Deadline, 5 Cancelled });
enumeration!(presence_kind: u8 "event" -> PresenceKind { 1 NodeUp, 2 NodeDown, 3 Login, 4 Logout });
enumeration!(error_code: u16 "code" -> ErrorCode {
    1 Malformed, 2 Version, 3 OldEpoch, 4 Replaced, 5 NameTaken, 6 NotAllowed, 7 Limit, 8 OldHub, 9 Silent, 10 Stopping
});

fn boolean(from: &mut Reader<'_>, field: &'static str) -> Result<bool, WireError> {
    match from.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(WireError::new(
            WireErrorKind::BadValue,
            field,
            u64::from(other),
        )),
    }
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
        match self {
            Self::Hello(_) => (0x01, 0),
            Self::Send(send) => {
                let kind = match send.target {
                    Target::Player(_) => 0x02,
                    Target::Group(_) => 0x03,
                    Target::Broadcast(_) => 0x04,
                };
                (kind, send.content as u8 | mark(send.resend))
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
            Self::Welcome(_) => (0x41, 0),
            Self::Receipt { .. } => (0x42, 0),
            Self::GroupReport(report) => (0x43, mark(report.last)),
            Self::Bound { .. } => (0x44, 0),
            Self::Deliver(deliver) => (0x45, deliver.content as u8),
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

    fn write_body(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        match self {
            Self::Hello(hello) => write_hello(hello, to),
            Self::Send(send) => write_send(send, to),
            Self::Request {
                call,
                deadline_ms,
                service,
                payload,
                ..
            } => {
                to.u64(*call);
                to.u32(*deadline_ms);
                to.name("service", service)?;
                write_payload(payload, to)
            }
            Self::Reply {
                call, ok, payload, ..
            } => {
                to.u64(*call);
                to.u8(u8::from(*ok));
                write_payload(payload, to)
            }
            Self::Cancel { call } | Self::Cancelled { call } => {
                to.u64(*call);
                Ok(())
            }
            Self::Login { claims } | Self::Register { claims, .. } => {
                to.list("claims", claims, MAX_LIST_ITEMS)
            }
            Self::Logout {
                player,
                login,
                cursor,
            } => {
                to.u64(*login);
                to.name("player", player)?;
                to.list("cursor", cursor, MAX_LIST_ITEMS)
            }
            Self::Ack { acks } => to.list("acks", acks, MAX_LIST_ITEMS),
            Self::Join {
                request, members, ..
            }
            | Self::Leave {
                request, members, ..
            } => {
                to.u64(*request);
                to.list("members", members, MAX_LIST_ITEMS)
            }
            Self::Subscribe { topics } => {
                to.u8(*topics);
                Ok(())
            }
            Self::Ping { nonce, low } | Self::Pong { nonce, low } => {
                to.u64(*nonce);
                to.u64(*low);
                Ok(())
            }
            Self::Bye { low } => {
                to.u64(*low);
                Ok(())
            }
            Self::Query {
                call,
                what,
                argument,
            } => {
                to.u64(*call);
                to.u8(*what);
                to.bytes("argument", argument.as_bytes(), MAX_TEXT_BYTES)
            }
            _ => self.write_hub_body(to),
        }
    }

    fn write_hub_body(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        match self {
            Self::Welcome(welcome) => write_welcome(welcome, to),
            Self::Receipt { receipts } => to.list("receipts", receipts, MAX_LIST_ITEMS),
            Self::GroupReport(report) => write_report(report, to),
            Self::Bound { bound } => to.list("bound", bound, MAX_LIST_ITEMS),
            Self::Deliver(deliver) => {
                deliver.id.write(to)?;
                to.u8(deliver.policy as u8);
                to.list("targets", &deliver.targets, MAX_LIST_ITEMS)?;
                write_payload(deliver.payload, to)
            }
            Self::LogoutDone { player, login } => {
                to.u64(*login);
                to.name("player", player)
            }
            Self::Drop { player, login, why } => {
                to.u64(*login);
                to.name("player", player)?;
                to.text(why);
                Ok(())
            }
            Self::Forget {
                player,
                binding,
                up_to,
            } => {
                to.u64(*binding);
                up_to.write(to)?;
                to.name("player", player)
            }
            Self::Presence { events, .. } => to.list("events", events, MAX_LIST_ITEMS),
            Self::Call {
                call,
                deadline_ms,
                from,
                service,
                payload,
                ..
            } => {
                to.u64(*call);
                to.u32(*deadline_ms);
                to.name("from", from)?;
                to.name("service", service)?;
                write_payload(payload, to)
            }
            Self::Answer {
                call,
                status,
                payload,
                ..
            } => {
                to.u64(*call);
                to.u8(*status as u8);
                write_payload(payload, to)
            }
            Self::Error { code, text } => {
                to.u16(*code as u16);
                to.text(text);
                Ok(())
            }
            Self::Joined {
                request,
                ok,
                detail,
            } => {
                to.u64(*request);
                to.u8(u8::from(*ok));
                to.text(detail);
                Ok(())
            }
            _ => unreachable!("write_body has the kinds of nodes"),
        }
    }
}

fn write_hello(hello: &Hello<'_>, to: &mut Writer<'_>) -> Result<(), WireError> {
    to.u16(hello.version_min);
    to.u16(hello.version_max);
    to.u64(hello.node_key);
    to.u64(hello.epoch);
    to.u64(hello.connection);
    to.u32(hello.highest_hub_epoch);
    to.u64(hello.low);
    to.u64(hello.features);
    to.name("node name", hello.name)?;
    to.list("roles", &hello.roles, MAX_ROLES)
}

fn write_send(send: &Send<'_>, to: &mut Writer<'_>) -> Result<(), WireError> {
    to.u64(send.seq);
    to.u64(send.low);
    to.u64(send.deadline_ms);
    to.u8(send.policy as u8);
    match send.target {
        Target::Player(player) => to.name("player", player)?,
        Target::Group(group) => to.name("group", group)?,
        Target::Broadcast(scope) => to.u8(scope as u8),
    }
    to.bytes("key", send.key.as_bytes(), MAX_KEY_BYTES)?;
    write_payload(send.payload, to)
}

fn write_welcome(welcome: &Welcome<'_>, to: &mut Writer<'_>) -> Result<(), WireError> {
    to.u16(welcome.version);
    to.u32(welcome.hub_epoch);
    to.u32(welcome.heartbeat_ms);
    to.u32(welcome.dead_ms);
    to.u32(welcome.spread_ms);
    to.u32(welcome.max_payload);
    to.u32(welcome.window_messages);
    to.u32(welcome.window_bytes);
    to.list("slots", &welcome.slots, MAX_LIST_ITEMS)
}

fn write_report(report: &GroupReport<'_>, to: &mut Writer<'_>) -> Result<(), WireError> {
    to.u64(report.seq);
    for count in report.counts {
        to.u32(count);
    }
    to.u32(report.omitted);
    to.list("entries", &report.entries, MAX_REPORT_ENTRIES)
}

fn write_payload(payload: &[u8], to: &mut Writer<'_>) -> Result<(), WireError> {
    to.bytes("payload bytes", payload, MAX_PAYLOAD_BYTES)
}

impl Item<'_> for MessageId {
    const FIXED_BYTES: Option<usize> = Some(24);

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            node_key: from.u64("node_key")?,
            epoch: from.u64("epoch")?,
            seq: from.u64("seq")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u64(self.node_key);
        to.u64(self.epoch);
        to.u64(self.seq);
        Ok(())
    }
}

impl<'a> Item<'a> for Claim<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            login: from.u64("login")?,
            request: from.u64("request")?,
            player: from.name("player")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u64(self.login);
        to.u64(self.request);
        to.name("player", self.player)
    }
}

impl Item<'_> for Ack {
    const FIXED_BYTES: Option<usize> = Some(12);

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            binding: from.u64("binding")?,
            up_to: from.u32("up_to")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u64(self.binding);
        to.u32(self.up_to);
        Ok(())
    }
}

impl Item<'_> for Number {
    const FIXED_BYTES: Option<usize> = Some(12);

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            binding: from.u64("binding")?,
            number: from.u32("number")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u64(self.binding);
        to.u32(self.number);
        Ok(())
    }
}

impl<'a> Item<'a> for Member<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            group: from.name("group")?,
            player: from.name("player")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.name("group", self.group)?;
        to.name("player", self.player)
    }
}

impl<'a> Item<'a> for SlotRange<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            first: from.u16("first")?,
            last: from.u16("last")?,
            hub: from.name("hub")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u16(self.first);
        to.u16(self.last);
        to.name("hub", self.hub)
    }
}

impl<'a> Item<'a> for Receipt<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            seq: from.u64("seq")?,
            outcome: outcome(from)?,
            detail: from.text("detail", MAX_TEXT_BYTES)?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u64(self.seq);
        to.u8(self.outcome as u8);
        to.text(self.detail);
        Ok(())
    }
}

impl<'a> Item<'a> for ReportEntry<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        let outcome = outcome(from)?;
        Ok(Self {
            outcome,
            player: from.name("player")?,
            detail: from.text("detail", MAX_TEXT_BYTES)?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u8(self.outcome as u8);
        to.name("player", self.player)?;
        to.text(self.detail);
        Ok(())
    }
}

impl<'a> Item<'a> for Bound<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        let (login, binding, request) = (
            from.u64("login")?,
            from.u64("binding")?,
            from.u64("request")?,
        );
        Ok(Self {
            login,
            binding,
            request,
            player: from.name("player")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u64(self.login);
        to.u64(self.binding);
        to.u64(self.request);
        to.name("player", self.player)
    }
}

impl<'a> Item<'a> for Presence<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            event: presence_kind(from)?,
            name: from.name("name")?,
            node: from.name("node")?,
        })
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        to.u8(self.event as u8);
        to.name("name", self.name)?;
        to.name("node", self.node)
    }
}

#[cfg(test)]
mod tests;
