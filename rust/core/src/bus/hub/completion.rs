//! What a committed operation means. Nothing here may be said before its commit [10].

use crate::bus::hub::Hub;
use crate::bus::hub::directory::{Membership, Phase};
use crate::bus::hub::mailbox::{Mailbox, Purpose};
use crate::bus::hub::receipts::{Detail, Recipient};
use crate::bus::message::{ErrorCode, MessageId, Outcome, node_key};
use crate::bus::store::{RosterEntry, Row, StoreDone, StoreOp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an append was.
#[derive(Debug, Clone, Copy)]
struct Fate {
    flush: bool,
    again: bool,
    deferred: u64,
}

impl Hub {
    pub(super) fn store_done(&mut self, op: &StoreOp, purpose: Purpose, done: StoreDone) {
        if !Mailbox::fits(op, &done) {
            self.exit(format!("the store answered {done:?} to {op:?}"));
            return;
        }
        if let Some(player) = purpose.player() {
            self.players.get_mut(player).line().ops -= 1;
        }
        match (purpose, done) {
            (Purpose::Open, done) => self.open_done(done),
            (append @ Purpose::Append { .. }, done) => self.append_done(append, &done),
            (Purpose::Read { player, binding }, StoreDone::Rows { rows, end }) => {
                self.rows_read(player, binding, rows, end);
                self.read_ended();
            }
            (Purpose::Accepted { player, binding }, StoreDone::Marks { marks }) => {
                self.marks_read(player, binding, marks);
            }
            (Purpose::Settle { player, up_to }, _) => self.settled(player, up_to),
            (
                Purpose::Logout {
                    player,
                    login,
                    session,
                },
                _,
            ) => self.logout_done(player, login, session),
            (
                Purpose::Member {
                    player,
                    session,
                    request,
                },
                done,
            ) => {
                let well = self.member_committed(player, op, done == StoreDone::Done);
                self.slim(player);
                self.member_done(session, request, well);
            }
            (Purpose::Player { player }, _) => self.slim(player),
            (Purpose::Due, StoreDone::Due { moved, next_ms }) => {
                self.due_done(&moved, next_ms);
            }
            (Purpose::Expire, StoreDone::Expired { count, marks }) => {
                self.expire_done(count, marks);
            }
            (Purpose::Admin { session, call }, StoreDone::Text { json }) => {
                self.store_answered(session, call, &json);
            }
            _ => {}
        }
    }

    fn append_done(&mut self, purpose: Purpose, done: &StoreDone) {
        let Purpose::Append {
            player,
            id,
            from,
            grouped,
            place,
            flush,
            again,
            deferred,
        } = purpose
        else {
            return;
        };
        let to = Recipient {
            from,
            id,
            grouped,
            place,
            player,
        };
        let fate = Fate {
            flush,
            again,
            deferred,
        };
        self.appended(to, fate, done);
    }

    fn open_done(&mut self, done: StoreDone) {
        if let StoreDone::Opened {
            hub_epoch_highest,
            roster,
            groups,
            next_due_ms,
        } = done
        {
            self.clock.next_due = next_due_ms;
            self.opened(hub_epoch_highest, roster, groups);
        }
    }

    /// The store is ours, or another hub's.
    fn opened(
        &mut self,
        highest: u32,
        roster: Vec<RosterEntry>,
        groups: Vec<(Arc<str>, Arc<str>)>,
    ) {
        if highest > self.config.hub_epoch {
            let ours = self.config.hub_epoch;
            self.exit(format!(
                "the store has hub epoch {highest}, this one is {ours}"
            ));
            return;
        }
        self.mailbox.opened = true;
        for entry in roster {
            self.remember(&entry);
        }
        for (group, player) in groups {
            if let Some(at) = self.players.intern(&player, self.config.max_players) {
                // What does not fit a limit stays in the store; the limits are above what they were when it was written.
                let _ = self.add(
                    at,
                    &group,
                    Membership {
                        plain: false,
                        durable: true,
                    },
                );
            }
        }
        if self.hold && self.awaited.is_empty() {
            self.end_hold();
        }
        self.send_all_held();
    }

    /// A node of the roster: its old epochs are refused from now on, and the hold waits for it [4b].
    fn remember(&mut self, entry: &RosterEntry) {
        if entry.node_key != node_key(&entry.name) {
            return;
        }
        let at = match self.sessions.find(entry.node_key) {
            Some(at) => at,
            None => self.sessions.add(entry.node_key, entry.name.clone()),
        };
        let session = self.sessions.get_mut(at);
        if session.epoch < entry.epoch {
            if session.link != super::directory::NONE {
                let (link, theirs, highest) = (session.link, session.epoch, entry.epoch);
                self.close_link(
                    link,
                    ErrorCode::OldEpoch,
                    &format!("epoch {theirs}, the highest is {highest}"),
                );
                self.give_up_players(at);
            }
            let session = self.sessions.get_mut(at);
            (session.epoch, session.connection, session.low, session.over) =
                (entry.epoch, 0, 0, false);
            session.refused.clear();
            session.expired.clear();
            session.linked = entry.linked;
            // If it does not come back, the roster is to say so.
            session.grace_until = entry.linked.then_some(self.now + self.config.node_grace_ms);
        }
        // The hub's own node hosts nobody: it serves the hub's events.
        let own = *entry.name == *self.config.name;
        if entry.linked && self.hold && !own && !self.sessions.get(at).registered {
            self.awaited.insert(entry.node_key);
        }
    }

    fn appended(&mut self, to: Recipient, fate: Fate, done: &StoreDone) {
        self.players.get_mut(to.player).line().appends.pop_front();
        match *done {
            StoreDone::UnknownPlayer => self.refuse(to, fate, Detail::UnknownPlayer),
            StoreDone::Full => self.refuse(to, fate, Detail::StoreFull),
            StoreDone::OverQuota { messages, bytes } => {
                self.refuse(to, fate, self.quota_detail(messages, bytes));
            }
            StoreDone::Passed if fate.again => self.outcome(to, Outcome::Passed, Detail::None),
            _ => {
                if fate.deferred != 0 {
                    self.deferred(to, fate.deferred);
                }
                self.outcome(to, Outcome::Stored, Detail::None);
            }
        }
        self.pump(to.player);
        self.slim(to.player);
    }

    const fn quota_detail(&self, messages: u64, bytes: u64) -> Detail {
        if messages >= self.config.player_messages {
            Detail::MailboxMessages(messages, self.config.player_messages)
        } else {
            Detail::MailboxBytes(bytes, self.config.player_bytes)
        }
    }

    /// A message is on the deferred list: its mark there ends when its sender knows [37].
    fn deferred(&mut self, to: Recipient, deliver_at_ms: u64) {
        self.counters.deferred += 1;
        self.clock.note_due(deliver_at_ms);
        let name = self.players.get(to.player).name.clone();
        let sender = self.sessions.get_mut(to.from);
        if sender.epoch == to.id.epoch && sender.low <= to.id.seq {
            sender.deferred.insert(to.id.seq, name);
        } else {
            self.trim_deferred(to.id, name);
        }
    }

    /// What the store is about to refuse, and so may let no later one pass: by player and sender, the first of each.
    pub(super) fn withdraw_behind(&mut self, all: &[(StoreOp, Purpose)], done: &[StoreDone]) {
        use StoreDone::{Full, OverQuota, UnknownPlayer};
        let mut refused = BTreeMap::new();
        for ((_, purpose), done) in all.iter().zip(done) {
            if let Some((line, id)) = purpose.line()
                && matches!(done, Full | OverQuota { .. } | UnknownPlayer)
            {
                refused.entry(line).or_insert(id);
            }
        }
        if refused.is_empty() {
            return;
        }
        for purpose in self.mailbox.withdraw(&refused) {
            let Purpose::Append {
                player,
                id,
                from,
                grouped,
                place,
                ..
            } = purpose
            else {
                continue;
            };
            let line = self.players.get_mut(player).line();
            line.ops -= 1;
            line.appends.retain(|other| *other != id);
            let to = Recipient {
                from,
                id,
                grouped,
                place,
                player,
            };
            self.answer_busy(to, Detail::BehindRefused);
        }
    }

    /// Not accepted after all: it comes again, and what is later waits for it [36].
    fn answer_busy(&mut self, to: Recipient, detail: Detail) {
        let name = self.players.get(to.player).name.clone();
        let sender = self.sessions.get_mut(to.from);
        if sender.epoch == to.id.epoch {
            sender.busy.insert(name, to.id.seq);
        }
        self.outcome(to, Outcome::Busy, detail);
    }

    /// A refusal by the store: what came later of that sender and waits in memory is `busy`, so that nothing passes
    /// the refused one before its sender knows.
    fn refuse(&mut self, to: Recipient, fate: Fate, detail: Detail) {
        let name = self.players.get(to.player).name.clone();
        // What was in memory may be in flight: it is not refused for good. To a player nobody knows it never was.
        if fate.flush && detail != Detail::UnknownPlayer {
            self.answer_busy(to, detail);
            for later in self.players.get_mut(to.player).line().take_later(to.id) {
                self.answer_busy(later.recipient(to.player), Detail::BehindBusy);
            }
            return;
        }
        self.outcome(to, Outcome::Refused, detail);
        let session = self.sessions.get_mut(to.from);
        if session.epoch != to.id.epoch || session.low > to.id.seq {
            return;
        }
        let of_player = session.refused.entry(name.clone()).or_default();
        of_player.insert(to.id.seq, detail);
        if fate.deferred != 0 {
            return; // [37] It stood in no line: what waits behind it may have gone out in an earlier binding.
        }
        for later in self.players.get_mut(to.player).line().take_later(to.id) {
            let sender = self.sessions.get_mut(to.from);
            sender.busy.insert(name.clone(), later.id.seq);
            self.outcome(
                later.recipient(to.player),
                Outcome::Busy,
                Detail::BehindRefused,
            );
        }
    }

    fn rows_read(&mut self, at: u32, binding: u32, rows: Vec<Row>, end: bool) {
        if self.players.get(at).binding == binding {
            self.players.get_mut(at).line().reading = false;
            self.rows(at, rows, end);
            self.slim_live(at);
        }
    }

    fn marks_read(&mut self, at: u32, binding: u32, marks: Vec<MessageId>) {
        let player = self.players.get_mut(at);
        if player.binding != binding {
            return;
        }
        let line = player.line();
        line.marks_reading = false;
        line.accepted = marks;
        let stale = line.behind_marks;
        player.marks_known = !stale;
        self.check_live(at);
        self.slim_live(at);
    }

    fn settled(&mut self, at: u32, up_to: u64) {
        let line = self.players.get_mut(at).line();
        (line.settling, line.settled) = (false, line.settled.max(up_to));
        self.settle(at);
        self.note_clean(at);
        self.forget(at);
        self.slim_live(at);
    }

    /// A login without messages needs no line: most players are idle at any time.
    fn slim_live(&mut self, at: u32) {
        if self.players.get(at).phase == Phase::Live {
            self.slim(at);
        }
    }
}
