//! Outcomes on their way to senders: single receipts, and the reports of group sends [40].

use crate::bus::broken::Rule;
use crate::bus::hub::Hub;
use crate::bus::hub::line::Entry;
use crate::bus::message::{GroupReport, Message, MessageId, Outcome, POLICY_SEQ, ReportEntry};
use crate::limits::MAX_REPORT_ENTRIES;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// In order; shared by the reports of a group.
    players: Arc<[u32]>,
    /// By place; none: still open.
    outcomes: Vec<Option<Outcome>>,
    counts: [u32; 8],
    /// Of few: by place.
    details: BTreeMap<u32, Detail>,
    open: usize,
    /// Names only those that are neither delivered nor stored.
    brief: bool,
}

/// What a report has of one more outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filled {
    /// Its recipient has one already, or is none of its.
    No,
    /// Others are open.
    One,
    /// All are there.
    Last,
}

impl Report {
    /// About recipients that are in order and all open.
    pub fn new(players: Arc<[u32]>, brief: bool) -> Self {
        debug_assert!(players.is_sorted());
        Self {
            outcomes: vec![None; players.len()],
            counts: [0; 8],
            details: BTreeMap::new(),
            open: players.len(),
            players,
            brief,
        }
    }

    /// Whether a player is among its recipients.
    pub fn names(&self, player: u32) -> bool {
        self.players.binary_search(&player).is_ok()
    }

    /// The first outcome counts. `place`: where its recipient stands, if it was sent with this report.
    fn set(&mut self, place: u32, player: u32, outcome: Outcome, detail: Detail) -> Filled {
        let here = self.players.get(place as usize) == Some(&player);
        let place = if here {
            Some(place as usize)
        } else {
            self.players.binary_search(&player).ok()
        };
        let Some(place) = place.filter(|place| self.outcomes[*place].is_none()) else {
            return Filled::No;
        };
        self.outcomes[place] = Some(outcome);
        self.counts[outcome as usize - 1] += 1;
        if detail != Detail::None {
            self.details.insert(place as u32, detail);
        }
        self.open -= 1;
        if self.open == 0 {
            Filled::Last
        } else {
            Filled::One
        }
    }

    /// In the words of version 1, `passed` is `stored`: a mark.
    fn narrow(&mut self) {
        for outcome in &mut self.outcomes {
            if *outcome == Some(Outcome::Passed) {
                *outcome = Some(Outcome::Stored);
            }
        }
        let passed = std::mem::take(&mut self.counts[Outcome::Passed as usize - 1]);
        self.counts[Outcome::Stored as usize - 1] += passed;
    }

    /// Delivered or stored.
    fn is_good(&self, place: usize) -> bool {
        matches!(
            self.outcomes[place],
            Some(Outcome::Delivered | Outcome::Stored)
        )
    }

    /// The places of those that it names, as many as a message may; the good ones last if not all have room.
    fn named(&self) -> Vec<usize> {
        let all = 0..self.players.len();
        let mut named: Vec<usize> = all
            .filter(|place| !self.brief || !self.is_good(*place))
            .collect();
        if named.len() > MAX_REPORT_ENTRIES {
            named.sort_by_key(|place| (self.is_good(*place), *place));
            named.truncate(MAX_REPORT_ENTRIES);
        }
        named
    }

    fn entry<'a>(&self, place: usize, player: &'a str, detail: &'a str) -> Option<ReportEntry<'a>> {
        Some(ReportEntry {
            player,
            outcome: self.outcomes[place]?,
            detail,
        })
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
        self.note_end(to, outcome, detail);
        let session = self.sessions.get_mut(to.from);
        if outcome == Outcome::Expired && to.id.seq & POLICY_SEQ == 0 && session.low <= to.id.seq {
            let name = self.players.get(to.player).name.clone();
            session.expired.insert(name, to.id.seq);
        }
        if !to.grouped {
            let link = session.link;
            self.note_outcome(to, outcome);
            return self.receipt(link, to.id.seq, outcome, detail);
        }
        let Some(report) = session.reports.get_mut(&to.id.seq) else {
            return;
        };
        let filled = report.set(to.place, to.player, outcome, detail);
        if filled != Filled::No {
            self.note_outcome(to, outcome);
        }
        if filled == Filled::Last {
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
        if !wide {
            report.narrow();
        }
        self.note_report(session, seq, &report.counts);
        let Some(found) = self.links.get_mut(link) else {
            return;
        };
        if found.closing.is_some() {
            return;
        }
        let named = report.named();
        let texts: BTreeMap<u32, Cow<'static, str>> = report
            .details
            .iter()
            .map(|(place, detail)| (*place, detail.text()))
            .collect();
        let entry = |place: &usize| {
            let text = texts.get(&(*place as u32)).map_or("", |text| text);
            let player = self.players.at(report.players[*place])?;
            report.entry(*place, &player.name, text)
        };
        let entries: Vec<_> = named.iter().filter_map(entry).collect();
        found.out.control(&Message::GroupReport(GroupReport {
            seq,
            last: true,
            wide,
            counts: report.counts,
            omitted: (report.players.len() - named.len()) as u32,
            entries: (&entries).into(),
        }));
        self.make_ready(link);
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
    /// Where the recipient stands there, if that is known.
    pub place: u32,
    /// The recipient.
    pub player: u32,
}
