//! Wall-clock time, and what happens at it: deadlines, deferred messages, expiry in the store (BUS.md rules 34, 37).
//!
//! The wall clock may jump. Nothing that orders or confirms messages reads it: it says only when a deadline is past and
//! when a deferred message is due.

use crate::bus::broken::Rule;
use crate::bus::hub::Hub;
use crate::bus::hub::directory::Phase;
use crate::bus::hub::line::{Entry, Sent};
use crate::bus::hub::mailbox::Purpose;
use crate::bus::message::{Mark, Outcome};
use crate::bus::store::{Moved, StoreOp};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Deferred messages that one operation moves: a few milliseconds of a transaction.
const DUE_LIMIT: u32 = 256;
/// Rows that one operation looks at for their deadline.
const EXPIRE_LIMIT: u32 = 1_000;
/// A wall clock that moves by more than this against ours was set, not slewed...
const JUMP_MS: u64 = 3_600_000;
/// ...and for so long no stored message is called late by it alone: somebody may see that it is wrong.
const AFTER_JUMP_MS: u64 = 600_000;

/// The wall clock, and what waits for it.
#[derive(Debug)]
pub struct Clock {
    /// A reading: `now_ms`, unix ms.
    read: (u64, u64),
    /// When the first deferred message is due, unix ms; 0 none.
    pub next_due: u64,
    due_asked: bool,
    /// A batch with `Due` in it has failed: nobody knows whether it counts, and its answer may name nobody again.
    due_failed: bool,
    expire_at: u64,
    expire_asked: bool,
    /// What the clock was before it jumped, a reading as well, and until when it counts beside the new one.
    before: Option<((u64, u64), u64)>,
    /// Players whose queue has, or had, a message with a deadline.
    pub timed: BTreeSet<u32>,
}

impl Clock {
    /// A clock that was read once.
    pub const fn new(now_ms: u64, unix_ms: u64, expire_every_ms: u64) -> Self {
        Self {
            read: (now_ms, unix_ms),
            next_due: 0,
            due_asked: false,
            due_failed: false,
            expire_at: now_ms + expire_every_ms,
            expire_asked: false,
            before: None,
            timed: BTreeSet::new(),
        }
    }

    /// Unix ms.
    pub const fn unix_ms(&self, now_ms: u64) -> u64 {
        self.read.1 + now_ms.saturating_sub(self.read.0)
    }

    /// The wall clock was read.
    fn tell(&mut self, now_ms: u64, unix_ms: u64) {
        let (expected, careful) = (self.unix_ms(now_ms), self.careful_unix_ms(now_ms));
        if unix_ms.abs_diff(expected) > JUMP_MS {
            self.before = Some(((now_ms, careful), now_ms + AFTER_JUMP_MS));
        }
        self.read = (now_ms, unix_ms);
    }

    /// Unix ms by which a stored message may be called late: after a jump, for as long as somebody needs to see that it was
    /// wrong, the earlier of what the clock says and what it would say without the jump.
    pub fn careful_unix_ms(&self, now_ms: u64) -> u64 {
        let unix_ms = self.unix_ms(now_ms);
        match self.before {
            Some(((read_ms, before_ms), until_ms)) if now_ms < until_ms => {
                unix_ms.min(before_ms + now_ms.saturating_sub(read_ms))
            }
            _ => unix_ms,
        }
    }

    /// A deferred message is known to be due at a time.
    pub const fn note_due(&mut self, unix_ms: u64) {
        if self.next_due == 0 || unix_ms < self.next_due {
            self.next_due = unix_ms;
        }
    }

    /// When deferred messages are to be asked for, in the time of the hub.
    pub fn due_at(&self) -> Option<u64> {
        let wait = self.next_due.saturating_sub(self.read.1);
        (self.next_due != 0 && !self.due_asked).then(|| self.read.0.saturating_add(wait))
    }
}

impl Hub {
    /// The wall clock was read: about once a second, and it may have jumped.
    pub fn handle_clock(&mut self, now_ms: u64, unix_ms: u64) {
        self.clock.tell(now_ms, unix_ms);
    }

    /// Unix ms, as far as the driver told.
    pub(super) const fn unix_ms(&self) -> u64 {
        self.clock.unix_ms(self.now)
    }

    /// Whether a deadline is past; 0 is none.
    pub(super) const fn is_past(&self, deadline_ms: u64) -> bool {
        deadline_ms != 0 && self.unix_ms() > deadline_ms
    }

    /// Whether a row is past its deadline, and was not brought there by a jump of the clock that may be wrong.
    pub(super) fn is_row_past(&self, deadline_ms: u64) -> bool {
        deadline_ms != 0 && self.clock.careful_unix_ms(self.now) > deadline_ms
    }

    /// Asks the store for what is due.
    pub(super) fn check_due(&mut self) {
        let due = self.clock.due_at().is_some_and(|at| self.now >= at);
        if due && self.mailbox.opened {
            self.clock.due_asked = true;
            let unix_ms = self.unix_ms();
            let limit = DUE_LIMIT;
            let op = StoreOp::Due { unix_ms, limit };
            self.mailbox.push(op, Purpose::Due);
        }
    }

    /// Deferred messages are rows now: who is hosted reads on, as after an append [37].
    pub(super) fn due_done(&mut self, all: &[Moved], next_ms: u64) {
        (self.clock.due_asked, self.clock.next_due) = (false, next_ms);
        self.counters.due += all.len() as u64;
        for moved in all {
            self.note_due(moved);
        }
        if std::mem::take(&mut self.clock.due_failed) {
            for at in 0..self.players.end() {
                if self.players.at(at).is_some() {
                    self.has_new_rows(at);
                }
            }
            return;
        }
        // Without a record, none will say that the mailbox is empty.
        let names = all.iter().map(|moved| &moved.player);
        let known: BTreeSet<u32> = names.filter_map(|name| self.players.find(name)).collect();
        for at in known {
            self.has_new_rows(at);
        }
    }

    fn has_new_rows(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        player.rows_left = true;
        if matches!(player.phase, Phase::Drain | Phase::Live) {
            player.phase = Phase::Drain;
            let line = player.line();
            (line.behind_read, line.at_end) = (true, false);
            self.pump(at);
        }
    }

    /// A batch failed. If it asked for what is due, it may have made rows whose players no later answer names: then all
    /// who are hosted read on.
    pub(super) const fn due_unknown(&mut self) {
        self.clock.due_failed |= self.clock.due_asked;
    }

    /// Now and then, when the store has nothing else to do.
    pub(super) fn check_expire(&mut self) {
        let idle = self.mailbox.opened && self.mailbox.backlog() == 0;
        if self.now < self.clock.expire_at || self.clock.expire_asked || !idle {
            return;
        }
        self.clock.expire_asked = true;
        let (unix_ms, limit) = (self.clock.careful_unix_ms(self.now), EXPIRE_LIMIT);
        self.mailbox
            .push(StoreOp::Expire { unix_ms, limit }, Purpose::Expire);
    }

    pub(super) fn expire_done(&mut self, count: u64, marks: Vec<(Arc<str>, Mark)>) {
        self.counters.expired_rows += count;
        for (player, mark) in marks {
            // [24] This hub may be a new one, which was not told when they were deferred.
            if self.sessions.is_over(&mark, true) && !self.broken.lacks(Rule::DeferredMarksEnd) {
                self.counters.trims += 1;
                self.trim_deferred(mark, player);
            }
        }
        self.clock.expire_asked = false;
        self.clock.expire_at = self.now + self.config.expire_every_ms;
    }

    /// Messages that wait in memory past their deadline; what is in `sent` is not looked at [34].
    pub(super) fn check_deadlines(&mut self) {
        let unix_ms = self.unix_ms();
        for at in std::mem::take(&mut self.clock.timed) {
            let Some(line) = self.players.at(at).and_then(|player| player.line.as_ref()) else {
                continue;
            };
            let early = self.broken.lacks(Rule::SentStays);
            if early || line.queue.iter().any(|entry| entry.deadline_ms != 0) {
                self.clock.timed.insert(at);
            }
            let line = self.players.get_mut(at).line();
            let is_past = |entry: &Entry| entry.deadline_ms != 0 && unix_ms > entry.deadline_ms;
            let mut past = line.take_where(is_past);
            if early {
                let in_memory = line.sent.iter().filter_map(|sent| match sent {
                    Sent::Memory(entry) => Some(entry),
                    _ => None,
                });
                past.extend(in_memory.filter(|entry| is_past(entry)).cloned());
            }
            self.answer_entries(at, past, Outcome::Expired);
            self.slim(at);
        }
    }
}
