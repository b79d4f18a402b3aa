//! What nodes write: PROTOCOL.md section 3, kinds below 0x40.

use super::items::{boolean, payload, policy, scope, write_payload};
use super::{EXTRA, Header, MARKED, TRACED};
use crate::bus::message::{Hello, Message, Policy, Send, Target};
use crate::bus::wire::{Reader, Writer};
use crate::error::{WireError, WireErrorKind};
use crate::limits::{MAX_KEY_BYTES, MAX_LIST_ITEMS, MAX_ROLES, MAX_TEXT_BYTES};

pub(super) fn from_node<'a>(
    header: &Header,
    from: &mut Reader<'a>,
) -> Result<Message<'a>, WireError> {
    Ok(match header.kind {
        0x01 => {
            header.flags(false, 0)?;
            Message::Hello(read_hello(from)?)
        }
        0x02..=0x04 => Message::Send(read_send(header, from)?),
        0x13 => Message::Send(read_later(header, from)?),
        0x05 | 0x06 | 0x12 => read_calls(header, from)?,
        0x08..=0x0d => read_hosting(header, from)?,
        kind => {
            header.flags(false, 0)?;
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
                0x14 => Message::Seen {
                    deliveries: from.list("seen", MAX_LIST_ITEMS)?,
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

fn read_calls<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Message<'a>, WireError> {
    let content = header.flags(header.kind != 0x12, 0)?;
    Ok(match header.kind {
        0x05 => {
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
            let (call, ok) = (from.u64("call")?, boolean(from, "ok")?);
            Message::Reply {
                call,
                ok,
                content,
                payload: payload(from)?,
            }
        }
        _ => {
            let (call, what) = (from.u64("call")?, from.u8("what")?);
            Message::Query {
                call,
                what,
                argument: from.text("argument", MAX_TEXT_BYTES)?,
            }
        }
    })
}

fn read_hosting<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Message<'a>, WireError> {
    let marked = matches!(header.kind, 0x09 | 0x0c | 0x0d);
    header.flags(false, if marked { MARKED } else { 0 })?;
    let mark = header.has(MARKED);
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
    let content = header.flags(true, MARKED | EXTRA | TRACED)?;
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
        deliver_at_ms: 0,
        policy,
        resend: header.has(MARKED),
        quiet: header.has(EXTRA),
        trace: header.has(TRACED),
        content,
        target,
        key,
        payload: payload(from)?,
    })
}

fn read_later<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Send<'a>, WireError> {
    let content = header.flags(true, MARKED | TRACED)?;
    let (seq, low, deadline_ms) = (from.u64("seq")?, from.u64("low")?, from.u64("deadline")?);
    let deliver_at_ms = from.u64("deliver_at")?;
    if deliver_at_ms == 0 {
        return Err(WireError::new(WireErrorKind::BadValue, "deliver_at", 0));
    }
    Ok(Send {
        seq,
        low,
        deadline_ms,
        deliver_at_ms,
        policy: Policy::MustDeliver,
        resend: header.has(MARKED),
        quiet: false,
        trace: header.has(TRACED),
        content,
        target: Target::Player(from.name("player")?),
        key: "",
        payload: payload(from)?,
    })
}

impl Message<'_> {
    pub(super) fn write_body(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
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
            _ => self.write_hosting(to),
        }
    }

    fn write_hosting(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        match self {
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
            Self::Seen { deliveries } => to.list("seen", deliveries, MAX_LIST_ITEMS),
            Self::Join {
                request, members, ..
            }
            | Self::Leave {
                request, members, ..
            } => {
                to.u64(*request);
                to.list("members", members, MAX_LIST_ITEMS)
            }
            _ => self.write_hub_body(to),
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
    if send.deliver_at_ms != 0 {
        return write_later(send, to);
    }
    to.u8(send.policy as u8);
    match send.target {
        Target::Player(player) => to.name("player", player)?,
        Target::Group(group) => to.name("group", group)?,
        Target::Broadcast(scope) => to.u8(scope as u8),
    }
    to.bytes("key", send.key.as_bytes(), MAX_KEY_BYTES)?;
    write_payload(send.payload, to)
}

fn write_later(send: &Send<'_>, to: &mut Writer<'_>) -> Result<(), WireError> {
    let plain = send.policy == Policy::MustDeliver && !send.quiet && send.key.is_empty();
    let Target::Player(player) = send.target else {
        return Err(WireError::new(WireErrorKind::BadValue, "deliver_at", 0));
    };
    if !plain {
        return Err(WireError::new(WireErrorKind::BadValue, "policy", 0));
    }
    to.u64(send.deliver_at_ms);
    to.name("player", player)?;
    write_payload(send.payload, to)
}
