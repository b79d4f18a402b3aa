//! From a binding to live: the mailbox is read to its end, then `accepted` filters what waits (BUS.md rules 15 to 18).

use crate::bus::broken::Rule;
use crate::bus::hub::Hub;
use crate::bus::hub::directory::{NONE, Phase};
use crate::bus::hub::flow::Blocked;
use crate::bus::hub::line::{Accepted, Payload, Sent, SentRow, at_or_below};
use crate::bus::hub::mailbox::Purpose;
use crate::bus::hub::trace::HopKind;
use crate::bus::message::Outcome;
use crate::bus::store::{Row, StoreOp};

impl Hub {
    /// A new binding reads its mailbox from the first row, if there may be one [15].
    pub(super) fn start_reading(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        player.phase = Phase::Drain;
        if !player.rows_left && player.marks_known {
            self.go_live(at); // This hub has read it to its end and has appended nothing since (BUS.md section 10).
            return;
        }
        if self.reads < self.config.first_reads {
            return self.pump(at);
        }
        let player = self.players.get_mut(at);
        if !player.read_waits {
            player.read_waits = true;
            self.unread.push_back(at);
        }
    }

    /// A read is done: the next login has its turn. A storm of logins holds no line for each of them.
    pub(super) fn read_ended(&mut self) {
        self.reads -= 1;
        while self.reads < self.config.first_reads {
            let Some(at) = self.unread.pop_front() else {
                return;
            };
            if self.players.at(at).is_some_and(|player| player.read_waits) {
                self.players.get_mut(at).read_waits = false;
                self.pump(at);
            }
        }
    }

    /// The next page, when half the window is free; the marks, when they are not on their way.
    pub(super) fn read_on(&mut self, at: u32) {
        let player = self.players.get(at);
        let line = player.line.as_deref();
        let (sent, busy, end) = line.map_or((0, false, false), |line| {
            (line.sent.len(), line.reading, line.at_end)
        });
        if busy || player.host == NONE {
            return;
        }
        if end {
            return self.read_marks(at);
        }
        if sent * 2 > self.config.sent_messages {
            return; // An ack asks again.
        }
        let room = self.links.get(self.sessions.get(player.host).link);
        if room.is_none_or(|link| link.out.payload_bytes() >= self.config.link_bytes) {
            return self.wait(at, Blocked::Link);
        }
        let limit = (self.config.sent_messages - sent) as u32;
        let player = self.players.get_mut(at);
        let (name, binding) = (player.name.clone(), player.binding);
        let line = player.line();
        (line.reading, line.behind_read) = (true, false);
        line.ops += 1;
        let after_row = line.last_row;
        self.reads += 1;
        self.mailbox.push(
            StoreOp::Read {
                player: name,
                after_row,
                limit,
            },
            Purpose::Read {
                player: at,
                binding,
            },
        );
        self.read_marks(at);
    }

    fn read_marks(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        let (name, binding, known) = (player.name.clone(), player.binding, player.marks_known);
        let line = player.line();
        if !known && !line.marks_reading {
            (line.marks_reading, line.behind_marks) = (true, false);
            line.ops += 1;
            self.mailbox.push(
                StoreOp::Accepted { player: name },
                Purpose::Accepted {
                    player: at,
                    binding,
                },
            );
        }
    }

    /// Rows came for the current binding.
    pub(super) fn rows(&mut self, at: u32, rows: Vec<Row>, end: bool) {
        let mut all = true;
        for row in rows {
            if self.is_row_past(row.deadline_ms) && !self.broken.lacks(Rule::ExpiredIsPassedOver) {
                self.counters.expired_rows += 1;
                self.players.get_mut(at).line().pass_over(row.row, row.id);
                continue;
            }
            if self.players.get(at).phase != Phase::Drain
                || self.blocked(at, row.id.node_key) != Blocked::No
            {
                let blocked = self.blocked(at, row.id.node_key);
                if blocked == Blocked::Cursor {
                    self.players.get_mut(at).line().no_row_ahead();
                }
                self.wait(at, blocked);
                all = false; // What did not fit is read again.
                break;
            }
            self.counters.rows_read += 1;
            let (link, number) = self.number(at, |line| {
                line.mark(row.id);
                line.last_row = row.row;
                line.sent.push_back(Sent::Row(Box::new(SentRow {
                    row: row.row,
                    settles: row.row,
                    id: row.id,
                })));
            });
            self.note_hop(HopKind::Sent, row.id, at, row.row, "");
            let message = Accepted {
                id: row.id,
                from: NONE,
                grouped: false,
                resend: false,
                deadline_ms: row.deadline_ms,
                trace: false,
                content: row.content,
                payload: Payload::Shared(row.payload),
            };
            self.write_deliver(link, &message, (&[number]).into());
        }
        self.settle(at);
        let line = self.players.get_mut(at).line();
        line.at_end = end && all && !line.behind_read;
        if line.at_end {
            self.check_live(at)
        } else if all {
            self.read_on(at)
        }
    }

    /// Live, once the mailbox was read to its end and `accepted` is known, with no append behind them [17].
    pub(super) fn check_live(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        if player.phase != Phase::Drain || !player.line().at_end {
            return;
        }
        if player.marks_known {
            self.go_live(at)
        } else {
            self.read_marks(at)
        }
    }

    fn go_live(&mut self, at: u32) {
        let filtered = !self.broken.lacks(Rule::AcceptedAtLive); // [18]
        let player = self.players.get_mut(at);
        player.phase = Phase::Live;
        if player.line.is_some() {
            if filtered {
                let line = player.line();
                let accepted = std::mem::take(&mut line.accepted);
                let seen = line.take_where(|entry| at_or_below(entry, &accepted));
                line.accepted = accepted;
                self.answer_marked(at, seen, Outcome::Stored);
            }
            self.trim(at);
        }
        self.note_clean(at);
        self.pump(at);
    }

    /// Tells the store which marks can't be asked for again [24].
    fn trim(&mut self, at: u32) {
        let complete = self.mailbox.opened;
        let player = self.players.get_mut(at);
        let name = player.name.clone();
        let (sessions, early) = (&self.sessions, self.broken.lacks(Rule::TrimWaits));
        let (over, kept): (Vec<_>, Vec<_>) = player
            .line()
            .accepted
            .drain(..)
            .partition(|mark| early || sessions.is_over(mark, complete));
        player.line().accepted = kept;
        for mark in over {
            self.counters.trims += 1;
            self.players.get_mut(at).line().ops += 1;
            let op = StoreOp::Trim {
                player: name.clone(),
                sender: mark.node_key,
                epoch: mark.epoch,
                seq: mark.seq,
            };
            self.mailbox.push(op, Purpose::Player { player: at });
        }
    }

    /// Remembers that the mailbox is empty, when that is sure.
    pub(super) fn note_clean(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        if player.phase == Phase::Live
            && player
                .line
                .as_ref()
                .is_none_or(|line| line.has_no_rows_open())
        {
            player.rows_left = false;
        }
    }
}
