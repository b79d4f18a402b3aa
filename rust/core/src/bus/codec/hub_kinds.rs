//! What the hub writes: PROTOCOL.md section 3, kinds from 0x40.

use super::items::{answer_status, boolean, error_code, payload, policy, write_payload};
use super::{EXTRA, Header, MARKED, TRACED};
use crate::bus::message::{Content, Deliver, GroupReport, Message, MessageId, Welcome};
use crate::bus::wire::{Item, Reader, Writer};
use crate::error::{WireError, WireErrorKind};
use crate::limits::{MAX_LIST_ITEMS, MAX_REPORT_ENTRIES, MAX_TEXT_BYTES};

pub(super) fn from_hub<'a>(
    header: &Header,
    from: &mut Reader<'a>,
) -> Result<Message<'a>, WireError> {
    let payload_kind = matches!(header.kind, 0x45 | 0x4a | 0x4b);
    let allowed = match header.kind {
        0x43 => MARKED | EXTRA,
        0x45 => TRACED,
        0x49 => MARKED,
        _ => 0,
    };
    let content = header.flags(payload_kind, allowed)?;
    let mark = header.has(MARKED);
    Ok(match header.kind {
        0x41 => Message::Welcome(read_welcome(from)?),
        0x42 => Message::Receipt {
            receipts: from.list("receipts", MAX_LIST_ITEMS)?,
        },
        0x43 => Message::GroupReport(read_report(mark, header.has(EXTRA), from)?),
        0x44 => Message::Bound {
            bound: from.list("bound", MAX_LIST_ITEMS)?,
        },
        0x46..=0x48 => read_for_host(header, from)?,
        0x49 => Message::Presence {
            snapshot: mark,
            events: from.list("events", MAX_LIST_ITEMS)?,
        },
        0x45 | 0x4a | 0x4b => read_carrying(header, content, from)?,
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

/// The kinds that tell a node about one player that it hosts.
fn read_for_host<'a>(header: &Header, from: &mut Reader<'a>) -> Result<Message<'a>, WireError> {
    if header.kind == 0x48 {
        let (binding, up_to) = (from.u64("binding")?, MessageId::read(from)?);
        let player = from.name("player")?;
        return Ok(Message::Forget {
            binding,
            up_to,
            player,
        });
    }
    let (login, player) = (from.u64("login")?, from.name("player")?);
    Ok(if header.kind == 0x46 {
        Message::LogoutDone { login, player }
    } else {
        let why = from.text("why", MAX_TEXT_BYTES)?;
        Message::Drop { login, player, why }
    })
}

/// The kinds that carry a payload to a node.
fn read_carrying<'a>(
    header: &Header,
    content: Content,
    from: &mut Reader<'a>,
) -> Result<Message<'a>, WireError> {
    Ok(match header.kind {
        0x45 => {
            let (id, policy) = (MessageId::read(from)?, policy(from)?);
            let targets = from.list("targets", MAX_LIST_ITEMS)?;
            Message::Deliver(Deliver {
                id,
                policy,
                trace: header.has(TRACED),
                content,
                targets,
                payload: payload(from)?,
            })
        }
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
        _ => {
            let (call, status) = (from.u64("call")?, answer_status(from)?);
            Message::Answer {
                call,
                status,
                content,
                payload: payload(from)?,
            }
        }
    })
}

fn read_welcome<'a>(from: &mut Reader<'a>) -> Result<Welcome<'a>, WireError> {
    let version = from.u16("version")?;
    Ok(Welcome {
        version,
        hub_epoch: from.u32("hub_epoch")?,
        heartbeat_ms: from.u32("heartbeat")?,
        dead_ms: from.u32("dead")?,
        spread_ms: from.u32("spread")?,
        max_payload: from.u32("max_payload")?,
        window_messages: from.u32("window_messages")?,
        window_bytes: from.u32("window_bytes")?,
        slots: from.list("slots", MAX_LIST_ITEMS)?,
        features: if version >= 2 {
            from.u64("features")?
        } else {
            0
        },
    })
}

fn read_report<'a>(
    last: bool,
    wide: bool,
    from: &mut Reader<'a>,
) -> Result<GroupReport<'a>, WireError> {
    let seq = from.u64("seq")?;
    let mut counts = [0; 8];
    for count in &mut counts[..if wide { 8 } else { 7 }] {
        *count = from.u32("counts")?;
    }
    let omitted = from.u32("omitted")?;
    Ok(GroupReport {
        seq,
        last,
        wide,
        counts,
        omitted,
        entries: from.list("entries", MAX_REPORT_ENTRIES)?,
    })
}

impl Message<'_> {
    pub(super) fn write_hub_body(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        match self {
            Self::Welcome(welcome) => write_welcome(welcome, to),
            Self::Receipt { receipts } => to.list("receipts", receipts, MAX_LIST_ITEMS),
            Self::GroupReport(report) => write_report(report, to),
            Self::Bound { bound } => to.list("bound", bound, MAX_LIST_ITEMS),
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
            _ => self.write_carrying(to),
        }
    }

    /// The kinds that carry a payload to a node.
    fn write_carrying(&self, to: &mut Writer<'_>) -> Result<(), WireError> {
        match self {
            Self::Deliver(deliver) => {
                deliver.id.write(to)?;
                to.u8(deliver.policy as u8);
                to.list("targets", &deliver.targets, MAX_LIST_ITEMS)?;
                write_payload(deliver.payload, to)
            }
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
            _ => unreachable!("write_body has the kinds of nodes"),
        }
    }
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
    to.list("slots", &welcome.slots, MAX_LIST_ITEMS)?;
    if welcome.version >= 2 {
        to.u64(welcome.features);
    }
    Ok(())
}

fn write_report(report: &GroupReport<'_>, to: &mut Writer<'_>) -> Result<(), WireError> {
    to.u64(report.seq);
    for count in &report.counts[..if report.wide { 8 } else { 7 }] {
        to.u32(*count);
    }
    to.u32(report.omitted);
    to.list("entries", &report.entries, MAX_REPORT_ENTRIES)
}
