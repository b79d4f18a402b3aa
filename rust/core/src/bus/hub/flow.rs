//! The line of a player in motion (BUS.md section 6): into the queue, out to the host, into the mailbox.

use crate::bus::broken::{Broken, Rule};
use crate::bus::hub::Hub;
use crate::bus::hub::directory::{NONE, Phase};
use crate::bus::hub::line::{Accepted, Entry, Line, Sent};
use crate::bus::hub::mailbox::{MAX_BACKLOG, Purpose};
use crate::bus::hub::receipts::Detail;
use crate::bus::hub::trace::HopKind;
use crate::bus::message::{Ack, Deliver, ErrorCode, Message, Number, Outcome, Policy};
use crate::bus::store::StoreOp;
use crate::bus::wire::List;

/// What became of a message that entered a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// Its outcome comes later.
    Open,
    /// This is its outcome.
    Done(Outcome, Detail),
    /// It is in `sent`; the caller writes it to this link.
    Live(u32, Number),
}

/// Why nothing goes out of a queue now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    No,
    /// Acks open the window again.
    Window,
    /// The link has room again later.
    Link,
    /// A mark has to go first.
    Cursor,
}

/// Whether messages go from memory to the host in this phase [15].
fn flows(phase: Phase, broken: Broken) -> bool {
    phase == Phase::Live || (phase == Phase::Drain && broken.lacks(Rule::MailboxFirst))
}

/// What an ack means for a message that has no row, or got one after it went out.
const fn acked(passed: bool) -> Outcome {
    if passed {
        Outcome::Passed
    } else {
        Outcome::Delivered
    }
}

impl Hub {
    /// Whether a line can take a message of this size, in memory or in the store [38].
    pub(super) fn room(&self, player: u32, bytes: usize) -> Result<(), Detail> {
        let player = self.players.get(player);
        let (messages, queued) = player
            .line
            .as_ref()
            .map_or((0, 0), |line| (line.queue.len(), line.queue_bytes));
        let full =
            messages >= self.config.queue_messages || queued + bytes > self.config.queue_bytes;
        let store_full = self.store_full(queued + bytes);
        match player.phase {
            Phase::Offline if self.hold && full => Err(Detail::Starting),
            Phase::Offline if self.hold => Ok(()),
            Phase::Offline if store_full => Err(Detail::StoreBusy),
            Phase::Waiting | Phase::Drain | Phase::Live if full && store_full => {
                Err(Detail::StoreBusy)
            }
            _ => Ok(()),
        }
    }

    /// Whether what waits for the store leaves no room for so many bytes more.
    pub(super) fn store_full(&self, bytes: usize) -> bool {
        self.mailbox.bytes + bytes > self.config.store_bytes
            || self.mailbox.backlog() >= MAX_BACKLOG
    }

    /// What needs no line to be said of a message.
    pub(super) fn known_before(&self, at: u32, entry: &Entry) -> Option<Entered> {
        let refused = &self.sessions.get(entry.from).refused;
        if !refused.is_empty()
            && let Some(of_player) = refused.get(&self.players.get(at).name)
            && let Some(detail) = of_player.get(&entry.id.seq)
        {
            return Some(Entered::Done(Outcome::Refused, *detail));
        }
        let line = self.players.get(at).line.as_deref();
        if entry.resend && line.is_some_and(|line| line.is_under_way(entry.id)) {
            return Some(Entered::Open); // [19]
        }
        let sender = self.sessions.get(entry.from);
        let past = self.is_past(entry.deadline_ms)
            || sender.expired.has(&self.players.get(at).name, entry.id.seq); // [34]
        past.then_some(Entered::Done(Outcome::Expired, Detail::None))
    }

    /// A message joins a line that has room for it.
    pub(super) fn enter(&mut self, at: u32, entry: Entry) -> Entered {
        self.counters.recipients += 1;
        let hold = self.hold;
        if let Some(known) = self.known_before(at, &entry) {
            return known;
        }
        let line = self.players.get(at).line.as_deref();
        if line.is_some_and(|line| line.is_accepted(entry.id))
            && !self.broken.lacks(Rule::AcceptedAtLive)
        {
            return Entered::Done(entry.marked_as(Outcome::Stored), Detail::None); // [18]
        }
        if entry.resend && line.is_some_and(|line| line.went_out(entry.id)) {
            return Entered::Done(entry.marked_as(Outcome::Stored), Detail::None);
        }
        let player = self.players.get_mut(at);
        if player.phase == Phase::Offline && !hold {
            self.append(at, entry, false);
            return Entered::Open;
        }
        let flows = flows(player.phase, self.broken);
        let live = flows && player.line().queue.is_empty();
        if live && self.blocked(at, entry.id.node_key) == Blocked::No {
            return self.send_live(at, entry);
        }
        if entry.deadline_ms != 0 {
            self.clock.timed.insert(at);
        }
        self.players.get_mut(at).line().push(entry);
        self.bound_queue(at);
        self.pump(at);
        Entered::Open
    }

    /// A queue over its bound goes to the mailbox [16].
    fn bound_queue(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        let line = player.line();
        let full = line.queue.len() > self.config.queue_messages
            || line.queue_bytes > self.config.queue_bytes;
        if full && player.phase != Phase::Offline {
            self.counters.spills += 1;
            if self.broken.lacks(Rule::WholeSpill) {
                for entry in std::mem::take(&mut self.players.get_mut(at).line().queue) {
                    self.append(at, entry, true);
                }
                self.players.get_mut(at).line().queue_bytes = 0;
            } else {
                self.flush(at);
            }
            let player = self.players.get_mut(at);
            if player.phase == Phase::Live {
                player.phase = Phase::Drain;
            }
        }
    }

    pub(super) fn blocked(&self, at: u32, sender: u64) -> Blocked {
        let player = self.players.get(at);
        if let Some(line) = &player.line {
            if line.sent.len() >= self.config.sent_messages {
                return Blocked::Window;
            }
            if !line.has_mark_room(sender, self.config.cursor_senders) {
                return Blocked::Cursor;
            }
        }
        let link = self.links.get(self.sessions.get(player.host).link);
        match link {
            Some(link) if link.out.payload_bytes() < self.config.link_bytes => Blocked::No,
            _ => Blocked::Link,
        }
    }

    /// Takes the next number for a message that is not in the queue.
    fn send_live(&mut self, at: u32, entry: Entry) -> Entered {
        if self.broken.lacks(Rule::SentStays) {
            self.clock.timed.insert(at);
        }
        if self.broken.lacks(Rule::DeliveredAtAck) {
            self.outcome(entry.recipient(at), Outcome::Delivered, Detail::None);
        }
        self.note_hop(HopKind::Sent, entry.id, at, 0, "");
        let (link, number) = self.number(at, |line| {
            line.mark(entry.id);
            line.sent.push_back(Sent::Memory(entry));
        });
        Entered::Live(link, number)
    }

    pub(super) fn number(&mut self, at: u32, into: impl FnOnce(&mut Line)) -> (u32, Number) {
        self.counters.deliveries += 1;
        let binding = self.in_epoch(self.players.get(at).binding);
        let player = self.players.get_mut(at);
        into(player.line());
        let number = Number {
            binding,
            number: player.next_number,
        };
        player.next_number = player.next_number.saturating_add(1);
        let (link, last) = (
            self.sessions.get(player.host).link,
            player.next_number == u32::MAX,
        );
        if last {
            // A new link has a new binding, whose numbers begin at 1.
            self.close_link(
                link,
                ErrorCode::Limit,
                "the numbers of a binding are used up",
            );
        }
        (link, number)
    }

    /// Writes one message to one link for the recipients there.
    pub(super) fn write_deliver(&mut self, link: u32, entry: &Accepted, targets: List<'_, Number>) {
        // What came out of the mailbox is traced to its end, as what somebody asked for.
        let traced = entry.from == NONE || self.is_flagged(entry.id);
        let Some(found) = self.links.get_mut(link) else {
            return;
        };
        if found.closing.is_some() {
            return;
        }
        let (id, content, payload) = (entry.id, entry.content, &*entry.payload);
        let deliver = Deliver {
            id,
            policy: Policy::MustDeliver,
            trace: (traced || entry.trace) && found.version >= 2,
            content,
            targets,
            payload,
        };
        found.out.payload(&Message::Deliver(deliver));
        self.make_ready(link);
    }

    /// Sends what may go out; reads on what may be read.
    pub(super) fn pump(&mut self, at: u32) {
        match self.players.get(at).phase {
            Phase::Live => self.pump_queue(at),
            Phase::Drain => {
                if self.broken.lacks(Rule::MailboxFirst) {
                    self.pump_queue(at);
                }
                self.read_on(at);
            }
            Phase::Offline | Phase::Waiting => {}
        }
    }

    fn pump_queue(&mut self, at: u32) {
        while flows(self.players.get(at).phase, self.broken) {
            let Some(head) = self
                .players
                .get(at)
                .line
                .as_ref()
                .and_then(|line| line.queue.front())
            else {
                return self.send_kept(at);
            };
            match self.blocked(at, head.id.node_key) {
                Blocked::No => {}
                blocked => return self.wait(at, blocked),
            }
            let Some(entry) = self.players.get_mut(at).line().pop() else {
                return;
            };
            if self.is_past(entry.deadline_ms) {
                self.outcome(entry.recipient(at), Outcome::Expired, Detail::None);
                continue;
            }
            let kept = entry.clone();
            if let Entered::Live(link, number) = self.send_live(at, entry) {
                self.write_deliver(link, &kept, (&[number]).into());
            }
        }
    }

    /// Notes what has to happen before a line moves on.
    pub(super) fn wait(&mut self, at: u32, blocked: Blocked) {
        let player = self.players.get_mut(at);
        let host = player.host;
        let line = player.line();
        match blocked {
            Blocked::Link if !line.stalled && host != NONE => {
                if let Some(link) = self.links.get_mut(self.sessions.get(host).link) {
                    line.stalled = true;
                    link.stalled.push_back(at);
                }
            }
            Blocked::Cursor if !line.crowded => {
                line.crowded = true;
                self.crowded.push_back(at);
            }
            Blocked::No | Blocked::Window | Blocked::Link | Blocked::Cursor => {}
        }
    }

    /// Players whose link has room again, in the order in which they began to wait.
    pub(super) fn resume(&mut self, link: u32) {
        loop {
            let Some(found) = self.links.get_mut(link) else {
                return;
            };
            if found.out.payload_bytes() * 2 > self.config.link_bytes {
                return;
            }
            let Some(at) = found.stalled.pop_front() else {
                return;
            };
            if self.players.at(at).is_some() {
                self.players.get_mut(at).line().stalled = false;
                self.pump(at);
            }
        }
    }

    /// The player who has this binding now on a node.
    fn bound_on(&self, session: u32, binding: u64) -> Option<u32> {
        let current = binding == self.in_epoch(binding as u32);
        let bound = self.players.bound(binding as u32).filter(|_| current);
        let any = self.broken.lacks(Rule::FreshBinding);
        bound.filter(|at| any || self.players.get(*at).host == session)
    }

    /// The node dropped a delivery as a duplicate: the cursor is past it. Its ack follows.
    pub(super) fn seen(&mut self, session: u32, seen: Number) {
        let Some(at) = self.bound_on(session, seen.binding) else {
            return;
        };
        let player = self.players.get_mut(at);
        let next = player.next_number;
        let Some(line) = &mut player.line else {
            return;
        };
        let place = seen.number.checked_sub(next - line.sent.len() as u32);
        match place.and_then(|place| line.sent.get_mut(place as usize)) {
            Some(Sent::Memory(entry)) => entry.passed = entry.is_again(),
            Some(Sent::Spilled(spilled)) => spilled.passed = spilled.again,
            _ => {}
        }
    }

    /// The host acked all numbers of a binding up to one [14, 25].
    pub(super) fn ack(&mut self, session: u32, ack: Ack) {
        let Some(at) = self.bound_on(session, ack.binding) else {
            self.counters.void_acks += 1;
            return;
        };
        let next = self.players.get(at).next_number;
        let Some(line) = &mut self.players.get_mut(at).line else {
            return;
        };
        let first = next - line.sent.len() as u32;
        let count =
            (ack.up_to.saturating_add(1).saturating_sub(first) as usize).min(line.sent.len());
        for _ in 0..count {
            let Some(sent) = self.players.get_mut(at).line().sent.pop_front() else {
                break;
            };
            match sent {
                Sent::Row(row) => {
                    self.players.get_mut(at).line().settle_wanted = row.settles;
                    self.note_hop(HopKind::Acked, row.id, at, row.row, "");
                    self.note_taken(row.id, session);
                }
                Sent::Memory(entry) => {
                    self.outcome(entry.recipient(at), acked(entry.passed), Detail::None);
                }
                Sent::Spilled(spilled) => {
                    self.outcome(spilled.to, acked(spilled.passed), Detail::None);
                }
            }
        }
        self.settle(at);
        self.pump(at);
        self.forget(at);
    }

    /// Deletes acked rows, one operation at a time [21].
    pub(super) fn settle(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        let Some(line) = &mut player.line else {
            return;
        };
        if !line.settling && line.settle_wanted > line.settled {
            (line.settling, line.ops) = (true, line.ops + 1);
            let up_to = line.settle_wanted;
            let name = player.name.clone();
            self.mailbox.push(
                StoreOp::Settle {
                    player: name,
                    up_to,
                },
                Purpose::Settle { player: at, up_to },
            );
        }
    }

    /// Issues one append. `flush`: the message was in memory before.
    pub(super) fn append(&mut self, at: u32, entry: Entry, flush: bool) {
        if self.broken.lacks(Rule::StoredAtCommit) {
            self.outcome(entry.recipient(at), Outcome::Stored, Detail::None);
        }
        let player = self.players.get_mut(at);
        (player.rows_left, player.marks_known) = (true, false);
        let name = player.name.clone();
        let line = player.line();
        line.ops += 1;
        line.appends.push_back(entry.id);
        line.behind_read = true;
        line.behind_marks = true;
        line.at_end = false;
        let again = entry.is_again();
        let Accepted {
            id,
            from,
            grouped,
            resend,
            deadline_ms,
            content,
            ref payload,
            ..
        } = *entry;
        let payload = payload.to_shared();
        let deadline_ms = match deadline_ms {
            0 => self.clock.unix_ms(self.now) + self.config.keep_ms,
            of_sender => of_sender,
        };
        let purpose = Purpose::Append {
            player: at,
            id,
            from,
            grouped,
            place: entry.place,
            flush,
            again,
            deferred: 0,
        };
        self.mailbox.push(
            StoreOp::Append {
                player: name,
                id,
                deadline_ms,
                content,
                payload,
                first: !flush && !resend,
            },
            purpose,
        );
    }

    /// All of memory goes to the mailbox, in order, what is in flight included [7, 9].
    pub(super) fn flush(&mut self, at: u32) {
        let Some(line) = &mut self.players.get_mut(at).line else {
            return;
        };
        for entry in line.take_memory(at) {
            self.append(at, entry, true);
        }
    }

    /// The binding ends: its acks are void, what was only sent waits again [14].
    pub(super) fn unbind(&mut self, at: u32) {
        self.players.rebind(at, 0);
        let player = self.players.get_mut(at);
        player.phase = Phase::Waiting;
        if let Some(line) = &mut player.line {
            line.unsend();
            line.stalled = false; // The list of the old link may still name it: that is harmless.
        }
    }
}
