//! Operations as bytes of the log. All numbers are little-endian.

use std::sync::Arc;
use zmqgame_core::bus::message::{Content, Mark, MessageId};
use zmqgame_core::bus::store::{RosterEntry, StoreOp};

const APPEND: u8 = 1;
const DEFER: u8 = 2;
const DUE: u8 = 3;
const SETTLE: u8 = 4;
const LOGOUT: u8 = 5;
const TRIM: u8 = 6;
const KNOW: u8 = 7;
const JOIN: u8 = 8;
const LEAVE: u8 = 9;
const ROSTER: u8 = 10;

fn number(to: &mut Vec<u8>, value: u64) {
    to.extend_from_slice(&value.to_le_bytes());
}

fn bytes(to: &mut Vec<u8>, value: &[u8]) {
    // A payload is at most some MiB.
    to.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend_from_slice(value);
}

fn message_id(to: &mut Vec<u8>, id: &MessageId) {
    number(to, id.node_key);
    number(to, id.epoch);
    number(to, id.seq);
}

/// Adds what was carried out; false for an operation that is not recorded.
pub fn encode(to: &mut Vec<u8>, op: &StoreOp) -> bool {
    match op {
        StoreOp::Append { .. } | StoreOp::Defer { .. } => message(to, op),
        StoreOp::Due { unix_ms, limit } => {
            to.push(DUE);
            number(to, *unix_ms);
            number(to, u64::from(*limit));
        }
        StoreOp::Settle { player, up_to } => {
            to.push(SETTLE);
            bytes(to, player.as_bytes());
            number(to, *up_to);
        }
        StoreOp::Logout { player, cursor } => {
            to.push(LOGOUT);
            bytes(to, player.as_bytes());
            number(to, cursor.len() as u64);
            for mark in cursor {
                message_id(to, mark);
            }
        }
        StoreOp::Trim {
            player,
            sender,
            epoch,
            seq,
        } => {
            to.push(TRIM);
            bytes(to, player.as_bytes());
            for value in [sender, epoch, seq] {
                number(to, *value);
            }
        }
        StoreOp::Know { player } => {
            to.push(KNOW);
            bytes(to, player.as_bytes());
        }
        StoreOp::Join { group, player } | StoreOp::Leave { group, player } => {
            to.push(if matches!(op, StoreOp::Join { .. }) {
                JOIN
            } else {
                LEAVE
            });
            bytes(to, group.as_bytes());
            bytes(to, player.as_bytes());
        }
        StoreOp::Roster { entry } => {
            to.push(ROSTER);
            number(to, entry.node_key);
            bytes(to, entry.name.as_bytes());
            number(to, entry.epoch);
            to.push(u8::from(entry.linked));
        }
        StoreOp::Open { .. }
        | StoreOp::Expire { .. }
        | StoreOp::Admin { .. }
        | StoreOp::Read { .. }
        | StoreOp::Accepted { .. } => return false,
    }
    true
}

fn message(to: &mut Vec<u8>, op: &StoreOp) {
    match op {
        StoreOp::Append {
            player,
            id,
            deadline_ms,
            content,
            payload,
            ..
        } => {
            to.push(APPEND);
            bytes(to, player.as_bytes());
            message_id(to, id);
            number(to, *deadline_ms);
            to.push(*content as u8);
            bytes(to, payload);
        }
        StoreOp::Defer {
            player,
            id,
            deliver_at_ms,
            deadline_ms,
            content,
            payload,
            ..
        } => {
            to.push(DEFER);
            bytes(to, player.as_bytes());
            message_id(to, id);
            number(to, *deliver_at_ms);
            number(to, *deadline_ms);
            to.push(*content as u8);
            bytes(to, payload);
        }
        _ => {}
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(count as usize)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(self.bytes()?).ok().map(Arc::from)
    }

    fn message_id(&mut self) -> Option<MessageId> {
        Some(MessageId {
            node_key: self.number()?,
            epoch: self.number()?,
            seq: self.number()?,
        })
    }

    fn content(&mut self) -> Option<Content> {
        match self.byte()? {
            0 => Some(Content::Bytes),
            1 => Some(Content::Text),
            2 => Some(Content::Json),
            _ => None,
        }
    }

    fn operation(&mut self) -> Option<StoreOp> {
        Some(match self.byte()? {
            APPEND => StoreOp::Append {
                player: self.text()?,
                id: self.message_id()?,
                deadline_ms: self.number()?,
                content: self.content()?,
                payload: self.bytes()?.into(),
                first: false,
            },
            DEFER => StoreOp::Defer {
                player: self.text()?,
                id: self.message_id()?,
                deliver_at_ms: self.number()?,
                deadline_ms: self.number()?,
                content: self.content()?,
                payload: self.bytes()?.into(),
                first: false,
            },
            DUE => StoreOp::Due {
                unix_ms: self.number()?,
                limit: u32::try_from(self.number()?).ok()?,
            },
            SETTLE => StoreOp::Settle {
                player: self.text()?,
                up_to: self.number()?,
            },
            LOGOUT => {
                let player = self.text()?;
                let count = self.number()?;
                let cursor: Option<Vec<Mark>> = (0..count).map(|_| self.message_id()).collect();
                StoreOp::Logout {
                    player,
                    cursor: cursor?,
                }
            }
            TRIM => StoreOp::Trim {
                player: self.text()?,
                sender: self.number()?,
                epoch: self.number()?,
                seq: self.number()?,
            },
            KNOW => StoreOp::Know {
                player: self.text()?,
            },
            JOIN => StoreOp::Join {
                group: self.text()?,
                player: self.text()?,
            },
            LEAVE => StoreOp::Leave {
                group: self.text()?,
                player: self.text()?,
            },
            ROSTER => StoreOp::Roster {
                entry: RosterEntry {
                    node_key: self.number()?,
                    name: self.text()?,
                    epoch: self.number()?,
                    linked: self.byte()? != 0,
                },
            },
            _ => return None,
        })
    }
}

/// The operations of a record: none of them was refused, so none may be now. `None`: not written by this version.
pub fn decode(body: &[u8]) -> Option<Vec<StoreOp>> {
    let mut reader = Reader(body);
    let mut ops = Vec::new();
    while !reader.0.is_empty() {
        ops.push(reader.operation()?);
    }
    Some(ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // That each operation comes back is shown with the seeds of rust/fuzz-bodies.
    #[test]
    fn what_is_no_change_is_not_recorded() {
        let (mut body, player) = (Vec::new(), "zoë".into());
        assert!(!encode(&mut body, &StoreOp::Accepted { player }));
        assert!(body.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&body);
        }
    }
}
