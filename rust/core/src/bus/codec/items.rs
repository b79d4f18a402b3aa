//! What stands in the lists of messages, and the fields that several kinds share.

use crate::bus::message::{
    Ack, AnswerStatus, Bound, Claim, ErrorCode, Member, MessageId, Number, Outcome, Policy,
    Presence, PresenceKind, Receipt, ReportEntry, Scope, SlotRange,
};
use crate::bus::wire::{Item, Reader, Writer};
use crate::error::{WireError, WireErrorKind};
use crate::limits::{MAX_PAYLOAD_BYTES, MAX_TEXT_BYTES};

pub(super) fn payload<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    from.bytes("payload bytes", MAX_PAYLOAD_BYTES)
}

macro_rules! enumeration {
    ($name:ident: $read:ident $raw:literal -> $kind:ident { $($value:literal $variant:ident),* }) => {
        pub(super) fn $name(from: &mut Reader<'_>) -> Result<$kind, WireError> {
            Ok(match from.$read($raw)? {
                $($value => $kind::$variant,)*
                other => return Err(WireError::new(WireErrorKind::BadValue, $raw, u64::from(other))),
            })
        }
    };
}

enumeration!(policy: u8 "policy" -> Policy { 0 MustDeliver, 1 Latest, 2 Droppable });
enumeration!(scope: u8 "scope" -> Scope { 0 Players, 1 Nodes });
enumeration!(outcome: u8 "outcome" -> Outcome { 1 Delivered, 2 Stored, 3 Expired, 4 Refused, 5 Busy, 6 Sent, 7 Dropped, 8 Passed });
enumeration!(answer_status: u8 "status" -> AnswerStatus { 0 Ok, 1 Failed, 2 NoSuchService, 3 Unknown, 4 Deadline, 5 Cancelled });
enumeration!(presence_kind: u8 "event" -> PresenceKind { 1 NodeUp, 2 NodeDown, 3 Login, 4 Logout });
enumeration!(error_code: u16 "code" -> ErrorCode {
    1 Malformed, 2 Version, 3 OldEpoch, 4 Replaced, 5 NameTaken, 6 NotAllowed, 7 Limit, 8 OldHub, 9 Silent, 10 Stopping
});

pub(super) fn boolean(from: &mut Reader<'_>, field: &'static str) -> Result<bool, WireError> {
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

pub(super) fn write_payload(payload: &[u8], to: &mut Writer<'_>) -> Result<(), WireError> {
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
