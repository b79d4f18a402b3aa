//! A player's line: what was sent in this binding, then what waits in memory [7].
//!
//! Rows of the mailbox are older than anything here: memory goes to the mailbox whole and in order,
//! what is in flight included, or not at all.

use crate::bus::hub::receipts::Recipient;
use crate::bus::message::{Content, Mark, MessageId, Outcome};
use crate::bus::store::DEFERRED_KEY;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

/// A message as it was accepted, one for all its recipients.
#[derive(Debug)]
pub struct Accepted {
    /// The message.
    pub id: MessageId,
    /// The session that waits for the outcome.
    pub from: u32,
    /// Its outcome goes into a group report.
    pub grouped: bool,
    /// It came as a resend.
    pub resend: bool,
    /// Unix ms after which it is not delivered; 0 none.
    pub deadline_ms: u64,
    /// Every hop of it is recorded.
    pub trace: bool,
    /// How to read the payload.
    pub content: Content,
    /// The payload.
    pub payload: Payload,
}

/// A short payload that stands in its message: with the rest of it, two cache lines.
const INLINE_BYTES: usize = 70;

/// A payload. Most are short: then a message is one piece of memory, of which its ack touches one line.
#[derive(Debug)]
pub enum Payload {
    /// As long as it says.
    Inline(u8, [u8; INLINE_BYTES]),
    /// Longer, or shared with the store.
    Shared(Arc<[u8]>),
}

impl From<&[u8]> for Payload {
    fn from(payload: &[u8]) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        match bytes.get_mut(..payload.len()) {
            Some(into) => {
                into.copy_from_slice(payload);
                Self::Inline(payload.len() as u8, bytes)
            }
            None => Self::Shared(payload.into()),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Payload {
    /// For an operation of the store.
    pub fn to_shared(&self) -> Arc<[u8]> {
        match self {
            Self::Inline(..) => (**self).into(),
            Self::Shared(bytes) => Arc::clone(bytes),
        }
    }
}

/// An accepted message in the line of one recipient, that has no row yet. There are as many as a group has members:
/// so it is small.
#[derive(Debug, Clone)]
pub struct Entry {
    message: Arc<Accepted>,
    /// The recipient's place in the group report.
    pub place: u32,
    /// Its node has dropped it as a duplicate, and it is a group send that was sent again.
    pub passed: bool,
}

impl Deref for Entry {
    type Target = Accepted;

    fn deref(&self) -> &Accepted {
        &self.message
    }
}

impl From<Accepted> for Entry {
    fn from(message: Accepted) -> Self {
        Self {
            message: Arc::new(message),
            place: 0,
            passed: false,
        }
    }
}

impl Entry {
    /// The same for another recipient.
    pub fn at_place(&self, place: usize) -> Self {
        Self {
            message: Arc::clone(&self.message),
            place: place as u32,
            passed: false,
        }
    }

    /// A group send that was sent again: some recipients may not have been members when it was first sent.
    pub fn is_again(&self) -> bool {
        self.grouped && self.resend
    }

    /// What it is answered when a mark is past it, which for a recipient of its own would be `otherwise`.
    pub fn marked_as(&self, otherwise: Outcome) -> Outcome {
        if self.is_again() {
            Outcome::Passed
        } else {
            otherwise
        }
    }

    /// Whose outcome it waits for.
    pub fn recipient(&self, player: u32) -> Recipient {
        Recipient {
            from: self.from,
            id: self.id,
            grouped: self.grouped,
            place: self.place,
            player,
        }
    }
}

/// Whether one of the marks is at or above a message.
pub fn at_or_below(entry: &Entry, marks: &[Mark]) -> bool {
    let mut of_sender = marks
        .iter()
        .filter(|mark| mark.node_key == entry.id.node_key);
    of_sender.any(|mark| *mark >= entry.id)
}

/// What an ack of a number means.
#[derive(Debug, Clone)]
pub enum Sent {
    /// `delivered`.
    Memory(Entry),
    /// `delivered`; its row comes again under another number.
    Spilled(Box<Spilled>),
    /// A row to settle.
    Row(Box<SentRow>),
}

/// A message that went out, and is a row by now. Its payload is not held.
#[derive(Debug, Clone)]
pub struct Spilled {
    /// Whose outcome.
    pub to: Recipient,
    /// It is a group send that was sent again.
    pub again: bool,
    /// And its node has dropped it as a duplicate.
    pub passed: bool,
}

/// A row that went out.
#[derive(Debug, Clone)]
pub struct SentRow {
    /// The row.
    pub row: u64,
    /// Rows up to here are settled with it: those behind it are past their deadline.
    pub settles: u64,
    /// The message, for its trace.
    pub id: MessageId,
}

/// What a session's cursor may hold of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderMark {
    /// The last message that went to the session.
    pub id: Mark,
    /// An unread row may hold what it stands for: the binding ended before all that went out was settled.
    ///
    /// Such a row is older than all rows of senders that have no mark: it is read again before one of those can
    /// wait for room, and then this ends.
    pub row_ahead: bool,
}

/// The line of one player.
#[derive(Debug, Default)]
pub struct Line {
    /// Accepted, not sent in this binding.
    pub queue: VecDeque<Entry>,
    /// Payload bytes of `queue`.
    pub queue_bytes: usize,
    /// Sent in this binding and not acked; the last one has `next_number - 1`.
    pub sent: VecDeque<Sent>,
    /// One per sender of whom the session may have a mark in its cursor.
    pub marks: Vec<SenderMark>,
    /// The store's `accepted`, as last read.
    pub accepted: Vec<Mark>,
    /// The last row sent in this binding.
    pub last_row: u64,
    /// A read of this binding is under way.
    pub reading: bool,
    /// `Accepted` of this binding is under way.
    pub marks_reading: bool,
    /// The last read came to the end, and no append was issued since it was.
    pub at_end: bool,
    /// An append was issued since the last read was.
    pub behind_read: bool,
    /// An append or logout was issued since `Accepted` was.
    pub behind_marks: bool,
    /// Rows up to here were acked.
    pub settle_wanted: u64,
    /// Rows up to here are deleted.
    pub settled: u64,
    /// A settle is under way.
    pub settling: bool,
    /// Operations of the store that will name this player when they are done.
    pub ops: u32,
    /// What is being appended, in order.
    pub appends: VecDeque<MessageId>,
    /// It is in its link's list of players that wait for room.
    pub stalled: bool,
    /// It is in the hub's list of players whose cursor is full.
    pub crowded: bool,
}

impl Line {
    /// Whether a message is here, in memory, or on its way into the mailbox: its outcome answers a repeat of it too.
    pub fn is_under_way(&self, id: MessageId) -> bool {
        self.contains(id) || self.appends.contains(&id)
    }

    /// Whether a message is here, in memory.
    pub fn contains(&self, id: MessageId) -> bool {
        let sent = |sent: &Sent| matches!(sent, Sent::Memory(entry) if entry.id == id);
        self.queue.iter().any(|entry| entry.id == id) || self.sent.iter().any(sent)
    }

    /// Joins at the tail.
    pub fn push(&mut self, entry: Entry) {
        self.queue_bytes += entry.payload.len();
        self.queue.push_back(entry);
    }

    /// Leaves at the head.
    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        self.queue_bytes -= entry.payload.len();
        Some(entry)
    }

    /// The binding ended: what was only sent waits again, at the head; rows are read again [14].
    pub fn unsend(&mut self) {
        let rows = |sent: &Sent| !matches!(sent, Sent::Memory(_));
        if self.settled < self.settle_wanted || self.sent.iter().any(rows) {
            self.marks.iter_mut().for_each(|mark| mark.row_ahead = true);
        }
        while let Some(sent) = self.sent.pop_back() {
            if let Sent::Memory(mut entry) = sent {
                entry.passed = false; // By that session; the next one may not have seen it.
                self.queue_bytes += entry.payload.len();
                self.queue.push_front(entry);
            }
        }
        self.last_row = 0;
        self.reading = false;
        self.marks_reading = false;
        self.at_end = false;
    }

    /// Takes all of memory, in order, for the mailbox. What is in flight keeps its number.
    pub fn take_memory(&mut self, player: u32) -> Vec<Entry> {
        let mut all = Vec::with_capacity(self.queue.len() + self.sent.len());
        for sent in &mut self.sent {
            if let Sent::Memory(entry) = sent {
                let spilled = Spilled {
                    to: entry.recipient(player),
                    again: entry.is_again(),
                    passed: entry.passed,
                };
                if let Sent::Memory(entry) = std::mem::replace(sent, Sent::Spilled(spilled.into()))
                {
                    all.push(entry);
                }
            }
        }
        all.extend(self.queue.drain(..));
        self.queue_bytes = 0;
        for mark in &mut self.marks {
            let below =
                |entry: &Entry| entry.id.node_key == mark.id.node_key && entry.id <= mark.id;
            mark.row_ahead |= all.iter().any(below);
        }
        all
    }

    /// Takes what waits of the same sender behind a message.
    pub fn take_later(&mut self, id: MessageId) -> Vec<Entry> {
        self.take_where(|entry| entry.id.node_key == id.node_key && entry.id > id)
    }

    /// Takes out of the queue what is like this, in order.
    pub fn take_where(&mut self, like: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        if !self.queue.iter().any(&like) {
            return Vec::new();
        }
        let (taken, kept): (Vec<_>, Vec<_>) = self.queue.drain(..).partition(like);
        self.queue = kept.into();
        self.queue_bytes = self.queue.iter().map(|entry| entry.payload.len()).sum();
        taken
    }

    /// A row past its deadline is passed over: it is settled with those before it [34].
    pub fn pass_over(&mut self, row: u64, id: MessageId) {
        self.last_row = row;
        let mark = self
            .marks
            .iter_mut()
            .find(|mark| mark.id.node_key == id.node_key);
        if let Some(mark) = mark.filter(|mark| id >= mark.id) {
            mark.row_ahead = false;
        }
        let sent = self.sent.iter_mut().rev();
        let before = sent.filter_map(|sent| match sent {
            Sent::Row(row) => Some(&mut row.settles),
            _ => None,
        });
        match before.into_iter().next() {
            Some(settles) => *settles = row,
            None => self.settle_wanted = row,
        }
    }

    /// Whether the cursor has room for a mark of this sender. The deferred list always has one: its rows come between
    /// what is in memory and what that becomes as rows, so the order of rows says nothing about which marks may go.
    pub fn has_mark_room(&self, node_key: u64, senders: usize) -> bool {
        node_key == DEFERRED_KEY
            || self.marks.len() < senders
            || self.marks.iter().any(|mark| mark.id.node_key == node_key)
    }

    /// A message goes to the session: the cursor may hold it.
    pub fn mark(&mut self, id: MessageId) {
        match self
            .marks
            .iter_mut()
            .find(|mark| mark.id.node_key == id.node_key)
        {
            Some(mark) if id >= mark.id => {
                *mark = SenderMark {
                    id,
                    row_ahead: false,
                };
            }
            Some(_) => {}
            None => self.marks.push(SenderMark {
                id,
                row_ahead: false,
            }),
        }
    }

    /// A row of a sender without mark was read: rows of what went out before are behind us, and what they stand for
    /// has come again or is settled.
    pub fn no_row_ahead(&mut self) {
        self.marks
            .iter_mut()
            .for_each(|mark| mark.row_ahead = false);
    }

    /// Whether a message that comes again went out to this session before, and is now acked or a row.
    ///
    /// Were it taken again, its second row could come behind those of senders that have no mark yet, and its mark go
    /// before it is read.
    pub fn went_out(&self, id: MessageId) -> bool {
        let marked = |mark: &SenderMark| mark.id.node_key == id.node_key && mark.id >= id;
        self.marks.iter().any(marked) && !self.is_under_way(id)
    }

    /// Whether the store said that it accepted this message [18].
    pub fn is_accepted(&self, id: MessageId) -> bool {
        self.accepted
            .iter()
            .any(|mark| mark.node_key == id.node_key && *mark >= id)
    }

    /// Whether all rows that were sent are acked and deleted, and nothing is being appended.
    pub fn has_no_rows_open(&self) -> bool {
        let rows = |sent: &Sent| !matches!(sent, Sent::Memory(_));
        self.appends.is_empty() && self.settled >= self.settle_wanted && !self.sent.iter().any(rows)
    }

    /// Whether memory holds a message of this sender.
    pub fn holds_sender(&self, node_key: u64) -> bool {
        let sent =
            |sent: &Sent| matches!(sent, Sent::Memory(entry) if entry.id.node_key == node_key);
        self.sent.iter().any(sent) || self.queue.iter().any(|entry| entry.id.node_key == node_key)
    }

    /// Whether it says nothing that an absent line does not.
    pub fn is_void(&self) -> bool {
        self.queue.is_empty()
            && self.sent.is_empty()
            && self.marks.is_empty()
            && self.accepted.is_empty()
            && self.ops == 0
            && !self.stalled
            && !self.crowded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(seq: u64) -> Entry {
        let id = MessageId {
            node_key: 1,
            epoch: 1,
            seq,
        };
        Entry::from(Accepted {
            id,
            from: 0,
            grouped: false,
            resend: false,
            deadline_ms: 0,
            trace: false,
            content: Content::Bytes,
            payload: (&vec![0; seq as usize % 7 * 20][..]).into(),
        })
    }

    fn ids(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.id.seq).collect()
    }

    proptest! {
        /// Whatever is pushed, sent, unsent: memory comes out whole and in order.
        #[test]
        fn memory_is_whole_and_in_order(steps in proptest::collection::vec(0u8..4, 0..100)) {
            let mut line = Line::default();
            let (mut pushed, mut acked) = (0, 0);
            for step in steps {
                match step {
                    0 => { pushed += 1; line.push(entry(pushed)); }
                    1 => if let Some(entry) = line.pop() { line.sent.push_back(Sent::Memory(entry)); },
                    2 => if line.sent.pop_front().is_some() { acked += 1; },
                    _ => line.unsend(),
                }
                prop_assert_eq!(line.queue_bytes, line.queue.iter().map(|e| e.payload.len()).sum::<usize>());
            }
            prop_assert_eq!(ids(&line.take_memory(0)), (acked + 1..=pushed).collect::<Vec<_>>());
            prop_assert_eq!(line.queue_bytes, 0);
        }
    }

    #[test]
    fn what_went_to_the_mailbox_does_not_wait_again() {
        let mut line = Line::default();
        line.sent.push_back(Sent::Memory(entry(1)));
        line.push(entry(2));
        assert_eq!(ids(&line.take_memory(0)), vec![1, 2]);
        line.unsend();
        assert!(line.queue.is_empty() && line.sent.is_empty());
    }

    #[test]
    fn what_each_member_of_a_group_has_is_small() {
        assert_eq!((size_of::<Entry>(), size_of::<Sent>()), (16, 16));
        assert_eq!(size_of::<Accepted>() + 2 * size_of::<usize>(), 128); // and the counts of the Arc
    }

    #[test]
    fn the_cursor_takes_64_senders() {
        let mut line = Line::default();
        for node_key in 0..64 {
            assert!(line.has_mark_room(node_key, 64));
            line.mark(MessageId {
                node_key,
                epoch: 1,
                seq: 1,
            });
        }
        assert!(line.has_mark_room(3, 64) && !line.has_mark_room(64, 64));
    }
}
