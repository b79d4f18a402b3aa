//! Outcomes on their way to senders: single receipts, and the reports of group sends [40].

use crate::bus::broken::Rule;
use crate::bus::hub::Hub;
use crate::bus::hub::line::Entry;
use crate::bus::message::{GroupReport, Message, MessageId, Outcome, POLICY_SEQ, ReportEntry};
use crate::limits::MAX_REPORT_ENTRIES;
use std::borrow::Cow;

/// Why, in one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// The outcome says it.
    #[default]
    None,
    /// No login of that name was ever committed.
    UnknownPlayer,
    /// Nobody is in that group.
    UnknownGroup,
    /// `latest` and `droppable`.
    Policy,
    /// The player is not live.
    NotOnline,
    /// The player's node can't take such messages.
    OldNode,
    /// The player's node, or the player, has too much before it.
    SlowNode,
    /// A newer one of that key came.
    Replaced,
    /// Too many wait for players to come online.
    KeptLimit,
    /// The store's byte limit.
    StoreFull,
    /// The mailbox is at its limit: it has this many messages, of so many.
    MailboxMessages(u64, u64),
    /// It has so many bytes, of so many.
    MailboxBytes(u64, u64),
    /// The store is away or slow, and memory has no more room.
    StoreBusy,
    /// The hub was just started.
    Starting,
    /// An earlier message of this sender to this player was `busy`.
    BehindBusy,
    /// An earlier message of this sender to this player was refused, and the sender does not know yet.
    BehindRefused,
    /// The hub's limit of players.
    Players,
}

impl Detail {
    /// For people.
    pub fn text(self) -> Cow<'static, str> {
        match self {
            Self::MailboxMessages(count, limit) => format!(
                "mailbox full, {} of {} messages",
                grouped(count),
                grouped(limit)
            )
            .into(),
            Self::MailboxBytes(count, limit) => format!(
                "mailbox full, {} of {} bytes",
                grouped(count),
                grouped(limit)
            )
            .into(),
            _ => self.name().into(),
        }
    }

    /// The same without numbers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::UnknownPlayer => "unknown player",
            Self::UnknownGroup => "unknown group",
            Self::Policy => "not supported: policy",
            Self::MailboxMessages(..) | Self::MailboxBytes(..) => "mailbox full",
            Self::NotOnline => "not online",
            Self::OldNode => "its node can't take policies",
            Self::SlowNode => "its node or the player is slow",
            Self::Replaced => "replaced by a newer one",
            Self::KeptLimit => "limit of kept messages reached",
            Self::StoreFull => "mailbox store full",
            Self::StoreBusy => "mailbox store away or slow",
            Self::Starting => "hub starting",
            Self::BehindBusy => "behind a busy message",
            Self::BehindRefused => "behind a refused message",
            Self::Players => "limit of players reached",
        }
    }
}

/// A number with a comma at each thousand.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut out = digits[..first].to_string();
    for at in (first..digits.len()).step_by(3) {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&digits[at..at + 3]);
    }
    out
}

/// The report of a group send under way.
#[derive(Debug)]
pub struct Report {
    /// By player's index. `None`: still open.
    recipients: Vec<(u32, Option<Outcome>, Detail)>,
    open: usize,
    /// Names only those that are neither delivered nor stored.
    brief: bool,
}

impl Report {
    /// About recipients that are in order and all open.
    pub fn new(recipients: impl Iterator<Item = u32>, brief: bool) -> Self {
        let recipients: Vec<_> = recipients
            .map(|player| (player, None, Detail::None))
            .collect();
        debug_assert!(recipients.is_sorted_by_key(|entry| entry.0));
        Self {
            open: recipients.len(),
            recipients,
            brief,
        }
    }

    /// Whether a recipient has no outcome yet.
    pub fn is_open(&self, player: u32) -> bool {
        let at = self
            .recipients
            .binary_search_by_key(&player, |entry| entry.0);
        at.is_ok_and(|at| self.recipients[at].1.is_none())
    }

    /// Whether a player is among its recipients.
    pub fn names(&self, player: u32) -> bool {
        let found = self
            .recipients
            .binary_search_by_key(&player, |entry| entry.0);
        found.is_ok()
    }

    /// The first outcome counts. True: all are there.
    fn set(&mut self, player: u32, outcome: Outcome, detail: Detail) -> bool {
        if let Ok(at) = self
            .recipients
            .binary_search_by_key(&player, |entry| entry.0)
            && self.recipients[at].1.is_none()
        {
            self.recipients[at] = (player, Some(outcome), detail);
            self.open -= 1;
        }
        self.open == 0
    }
}

impl Hub {
    /// Gives an outcome to its sender, if that still waits on this link [5].
    pub(super) fn outcome(&mut self, to: Recipient, outcome: Outcome, detail: Detail) {
        let outcome = match outcome {
            Outcome::Passed if self.broken.lacks(Rule::PassedForLate) => Outcome::Stored,
            other => other,
        };
        match outcome {
            Outcome::Delivered => self.counters.delivered += 1,
            Outcome::Stored => self.counters.stored += 1,
            Outcome::Refused => self.counters.refused += 1,
            Outcome::Busy => self.counters.busy += 1,
            Outcome::Expired => self.counters.expired += 1,
            Outcome::Sent => self.counters.sent += 1,
            Outcome::Dropped => self.counters.dropped += 1,
            Outcome::Passed => self.counters.passed += 1,
        }
        let session = self.sessions.get_mut(to.from);
        if session.epoch != to.id.epoch {
            return;
        }
        self.note_outcome(to, outcome, detail);
        let session = self.sessions.get_mut(to.from);
        if outcome == Outcome::Expired && to.id.seq & POLICY_SEQ == 0 && session.low <= to.id.seq {
            let name = self.players.get(to.player).name.clone();
            session.expired.insert(name, to.id.seq);
        }
        if !to.grouped {
            let link = session.link;
            self.receipt(link, to.id.seq, outcome, detail);
        } else if let Some(report) = session.reports.get_mut(&to.id.seq)
            && report.set(to.player, outcome, detail)
        {
            self.finish_report(to.from, to.id.seq);
        }
    }

    /// Gives one outcome to all that waited in a line.
    pub(super) fn answer_entries(&mut self, player: u32, entries: Vec<Entry>, outcome: Outcome) {
        for entry in entries {
            self.outcome(entry.recipient(player), outcome, Detail::None);
        }
    }

    /// The same for those that a mark is past.
    pub(super) fn answer_marked(&mut self, player: u32, entries: Vec<Entry>, outcome: Outcome) {
        for entry in entries {
            let outcome = entry.marked_as(outcome);
            self.outcome(entry.recipient(player), outcome, Detail::None);
        }
    }

    /// Puts one receipt on a link, if it is there.
    pub(super) fn receipt(&mut self, link: u32, seq: u64, outcome: Outcome, detail: Detail) {
        if let Some(found) = self.links.get_mut(link) {
            found.out.receipt(seq, outcome, &detail.text());
            self.make_ready(link);
        }
    }

    /// Sends the final report of a group send.
    pub(super) fn finish_report(&mut self, session: u32, seq: u64) {
        let Some(mut report) = self.sessions.get_mut(session).reports.remove(&seq) else {
            return;
        };
        let link = self.sessions.get(session).link;
        let wide = self.links.get(link).is_some_and(|link| link.version >= 2);
        let mut counts = [0u32; 8];
        for (_, outcome, _) in &mut report.recipients {
            if !wide && *outcome == Some(Outcome::Passed) {
                *outcome = Some(Outcome::Stored); // A mark, in the words of version 1.
            }
            if let Some(outcome) = outcome {
                counts[*outcome as usize - 1] += 1;
            }
        }
        self.note_report(session, seq, &counts);
        let good = |outcome: Outcome| matches!(outcome, Outcome::Delivered | Outcome::Stored);
        let mut named: Vec<_> = report
            .recipients
            .iter()
            .filter(|entry| !report.brief || !entry.1.is_some_and(good))
            .collect();
        let omitted = report
            .recipients
            .len()
            .saturating_sub(named.len().min(MAX_REPORT_ENTRIES));
        if named.len() > MAX_REPORT_ENTRIES {
            named.sort_by_key(|entry| (entry.1.is_some_and(good), entry.0));
            named.truncate(MAX_REPORT_ENTRIES);
        }
        let names: Vec<_> = named
            .iter()
            .map(|entry| {
                let name = self.players.at(entry.0).map(|player| player.name.clone());
                (name, entry.2.text())
            })
            .collect();
        let entries: Vec<_> = named
            .iter()
            .zip(&names)
            .filter_map(|(entry, (name, detail))| {
                Some(ReportEntry {
                    player: name.as_deref()?,
                    outcome: entry.1?,
                    detail,
                })
            })
            .collect();
        let message = Message::GroupReport(GroupReport {
            seq,
            last: true,
            wide,
            counts,
            omitted: omitted as u32,
            entries: (&entries).into(),
        });
        self.control(link, &message);
    }
}

/// Whose outcome, for which recipient.
#[derive(Debug, Clone, Copy)]
pub struct Recipient {
    /// The sender's session.
    pub from: u32,
    /// The message.
    pub id: MessageId,
    /// It goes into a group report.
    pub grouped: bool,
    /// The recipient.
    pub player: u32,
}
