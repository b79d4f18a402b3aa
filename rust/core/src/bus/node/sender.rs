//! The sender's window: must-deliver messages without final receipt, in seq order (BUS.md rules 1 to 3, 36, 40).
//!
//! | per message | event | next |
//! |---|---|---|
//! | waiting, unsent | link up, its turn | waiting, sent |
//! | waiting, sent | link lost | waiting, resend in seq order before anything new |
//! | waiting | final receipt | gone; low rises |
//! | waiting | `busy` | held back, then resent with every later one to that player |

use super::limits::{BUSY_FIRST_MS, BUSY_MAX_MS, WINDOW_BYTES, WINDOW_MESSAGES};
use super::loose::{LooseMessages, LooseOptions};
use super::report::Report;
use super::window::Window;
use crate::bus::broken::{Broken, Rule};
use crate::bus::message::{
    Content, GroupReport, Message, Outcome, POLICY_SEQ, Policy, Scope, Send, Target, features,
};
use crate::error::WireError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// To whom a message goes, owned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recipient {
    /// One player.
    Player(Arc<str>),
    /// The members of a group.
    Group(Arc<str>),
    /// Every online player.
    AllPlayers,
    /// Every node that hosts its own address.
    AllNodes,
}

impl Recipient {
    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Self::Player(name) => Target::Player(name),
            Self::Group(name) => Target::Group(name),
            Self::AllPlayers => Target::Broadcast(Scope::Players),
            Self::AllNodes => Target::Broadcast(Scope::Nodes),
        }
    }
}

/// A receipt as far as it is known to be final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Final {
    /// Of a unicast, or of a group send that was refused as a whole.
    One(Outcome, String),
    /// Of a group send or broadcast.
    Many(Report),
}

#[derive(Debug)]
struct Pending {
    recipient: Recipient,
    content: Content,
    payload: Vec<u8>,
    sent_before: bool,
    trace: bool,
    /// Unix ms; 0 none.
    deadline_ms: u64,
    /// Unix ms; 0: now.
    deliver_at_ms: u64,
    report: Option<Box<Report>>,
}

/// How a message is to be treated; the default: it must be delivered, at once, for ever.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendOptions<'a> {
    /// What happens when it can't go out.
    pub policy: Policy,
    /// What a `latest` replaces; else empty.
    pub key: &'a str,
    /// Unix ms after which it is not delivered; 0 none.
    pub deadline_ms: u64,
    /// Unix ms before which it is not delivered, to one player only; 0: now.
    pub deliver_at_ms: u64,
    /// Every hop of it is recorded.
    pub trace: bool,
    /// No receipt is wanted: not for must-deliver.
    pub quiet: bool,
    /// The seq of an earlier try of it in this epoch: must-deliver only.
    pub repeat: Option<u64>,
}

/// What the hub had no room for, and what may not pass it [36].
///
/// One wait for all, so that what is held goes out again in one sweep in seq order: a group send and a unicast to one
/// of its members must not pass each other, and only the hub knows who the members are.
#[derive(Debug, Default)]
struct Hold {
    /// First busy seq by player.
    players: BTreeMap<Recipient, u64>,
    /// First busy seq of a group send or broadcast.
    group: Option<u64>,
    /// First of all.
    first: Option<u64>,
    /// What goes out again: answered `busy`, or not written because of those. Nothing that still waits for its
    /// receipt: a second copy of it could be accepted after the first was refused for good.
    back: BTreeSet<u64>,
    /// Until then; `None`: tried again, and no `busy` came since.
    until_ms: Option<u64>,
    /// The last wait: doubles until a final receipt comes.
    wait_ms: u64,
}

fn lower(first: &mut Option<u64>, seq: u64) {
    *first = Some(first.map_or(seq, |known| known.min(seq)));
}

impl Hold {
    fn add(&mut self, now_ms: u64, recipient: &Recipient, seq: u64) {
        self.back.insert(seq);
        lower(&mut self.first, seq);
        if let Recipient::Player(_) = recipient {
            let first = self.players.entry(recipient.clone()).or_insert(seq);
            *first = (*first).min(seq);
        } else {
            lower(&mut self.group, seq);
        }
        if self.until_ms.is_none() {
            self.wait_ms = (self.wait_ms * 2).clamp(BUSY_FIRST_MS, BUSY_MAX_MS);
            self.until_ms = Some(now_ms + self.wait_ms);
        }
    }

    /// Whether a message is busy itself or may not pass one that is.
    fn holds(&self, recipient: &Recipient, seq: u64) -> bool {
        let first = match recipient {
            Recipient::Player(_) if self.players.is_empty() => self.group,
            Recipient::Player(_) => match (self.players.get(recipient).copied(), self.group) {
                (Some(own), Some(group)) => Some(own.min(group)),
                (own, group) => own.or(group),
            },
            _ => self.first,
        };
        first.is_some_and(|first| first <= seq)
    }

    /// A message was not written. A group send keeps back what comes later: to its members, whoever they are.
    fn keep_back(&mut self, recipient: &Recipient, seq: u64) {
        self.back.insert(seq);
        if !matches!(recipient, Recipient::Player(_)) {
            lower(&mut self.group, seq);
        }
    }

    /// The wait is over: what goes out again, in order.
    fn release(&mut self) -> BTreeSet<u64> {
        self.players.clear();
        (self.group, self.first, self.until_ms) = (None, None, None);
        std::mem::take(&mut self.back)
    }
}

/// The window.
#[derive(Debug)]
pub struct Sender {
    pending: Window<Pending>,
    loose: LooseMessages,
    /// What the hub on this link can do.
    features: u64,
    /// Can't be said to this hub; for the owner.
    unsaid: Vec<(u64, &'static str)>,
    bytes: usize,
    next_seq: u64,
    /// Everything below was written on this connection, or is held back by `busy`.
    written: u64,
    /// Below `written`, to be written again.
    again: BTreeSet<u64>,
    hold: Hold,
    max_messages: usize,
    max_bytes: usize,
    pub(super) broken: Broken,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The window is full: wait for receipts.
    Full,
    /// The given seq was used already, or is not of this epoch.
    SeqUsed,
}

fn cost(payload: &[u8]) -> usize {
    payload.len() + 256 // names, map node, report
}

impl Sender {
    /// An empty window whose first message gets `next_seq`.
    #[must_use]
    pub fn new(next_seq: u64) -> Self {
        Self {
            pending: Window::new(),
            loose: LooseMessages::default(),
            features: 0,
            unsaid: Vec::new(),
            bytes: 0,
            next_seq,
            written: next_seq,
            again: BTreeSet::new(),
            hold: Hold {
                players: BTreeMap::new(),
                group: None,
                first: None,
                back: BTreeSet::new(),
                until_ms: None,
                wait_ms: 0,
            },
            max_messages: WINDOW_MESSAGES,
            max_bytes: WINDOW_BYTES,
            broken: Broken::NONE,
        }
    }

    /// The hub's limits, if they are smaller than ours, and what it can do.
    pub fn limit(&mut self, messages: u32, bytes: u32, features: u64) {
        self.features = features;
        self.max_messages = (messages.max(1) as usize).min(WINDOW_MESSAGES);
        self.max_bytes = (bytes.max(1) as usize).min(WINDOW_BYTES);
    }

    /// The smallest seq without final receipt, else the next one.
    #[must_use]
    pub fn low(&self) -> u64 {
        self.pending.first().unwrap_or(self.next_seq)
    }

    /// How many wait for a receipt.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing waits for a receipt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether one more message of `payload` bytes has room. One alone always has.
    #[must_use]
    pub fn has_room(&self, payload: &[u8]) -> bool {
        self.pending.is_empty()
            || (self.pending.len() < self.max_messages
                && self.bytes + cost(payload) <= self.max_bytes)
    }

    /// Takes a message; it goes out at its turn. Only what must be delivered may have to wait for room. `up`: whether
    /// the link is.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn push(
        &mut self,
        recipient: Recipient,
        content: Content,
        payload: &[u8],
        options: &SendOptions<'_>,
        up: bool,
    ) -> Result<u64, SendError> {
        if options.policy != Policy::MustDeliver {
            return Ok(self.push_loose(recipient, content, payload, options, up));
        }
        if !self.has_room(payload) {
            return Err(SendError::Full);
        }
        let seq = options.repeat.unwrap_or(self.next_seq);
        if seq < self.next_seq || seq >= POLICY_SEQ {
            return Err(SendError::SeqUsed);
        }
        self.next_seq = seq + 1;
        self.bytes += cost(payload);
        self.pending.push(
            seq,
            Pending {
                recipient,
                content,
                payload: payload.to_vec(),
                sent_before: options.repeat.is_some(),
                trace: options.trace,
                deadline_ms: options.deadline_ms,
                deliver_at_ms: options.deliver_at_ms,
                report: None,
            },
        );
        Ok(seq)
    }

    fn push_loose(
        &mut self,
        recipient: Recipient,
        content: Content,
        payload: &[u8],
        options: &SendOptions<'_>,
        up: bool,
    ) -> u64 {
        let refusal = match (up, self.features & features::POLICIES) {
            (false, _) => Some("no link to the hub"),
            (true, 0) => Some("not supported: policy"),
            _ => None,
        };
        let loose = LooseOptions {
            policy: options.policy,
            key: options.key,
            deadline_ms: options.deadline_ms,
            quiet: options.quiet,
            trace: options.trace,
        };
        self.loose
            .push(recipient, content, payload, loose, self.next_seq, refusal)
    }

    /// Messages that end on this side: those of other policies, and those that this hub has no words for.
    pub(super) const fn loose(&mut self) -> &mut LooseMessages {
        &mut self.loose
    }

    /// The next message that this hub has no words for, and whether it went out before: then a newer hub may have
    /// handled it, and nobody knows; else it is refused.
    pub(super) fn poll_unsaid(&mut self) -> Option<(u64, &'static str, bool)> {
        let (seq, what) = self.unsaid.pop()?;
        self.take(seq)
            .map(|message| (seq, what, message.sent_before))
    }

    /// The connection is gone: everything unreceipted goes out again, oldest first [1].
    pub fn disconnected(&mut self) {
        self.loose.disconnected();
        self.unsaid.clear();
        self.written = self.low();
        self.again.clear();
        self.hold = Hold::default();
        if self.broken.lacks(Rule::Resend) {
            self.written = self.next_seq;
        } else if self.broken.lacks(Rule::OldFirst) {
            let old = |(seq, message): (u64, &Pending)| message.sent_before.then_some(seq);
            self.again = self.pending.iter().filter_map(old).collect();
            self.written = self.again.last().map_or(self.written, |last| last + 1);
        }
    }

    /// Appends what is to be sent, up to about `target_bytes`.
    ///
    /// # Errors
    /// Never for what `push` took with checked names and sizes.
    pub fn write(&mut self, out: &mut Vec<u8>, target_bytes: usize) -> Result<(), WireError> {
        let low = self.low();
        let (trace, deadline) = (
            self.features & features::TRACE != 0,
            self.features & features::DEADLINES != 0,
        );
        while out.len() < target_bytes {
            if self.loose.has_unsent() && self.again.is_empty() {
                self.loose
                    .write(out, target_bytes, self.written, low, trace)?;
            }
            let Some(seq) = self.next_to_write() else {
                break;
            };
            let Some(message) = self.pending.get_mut(seq) else {
                continue;
            };
            let unsaid = if message.deliver_at_ms != 0 && self.features & features::DEFERRED == 0 {
                Some("deferred")
            } else if message.deadline_ms != 0 && !deadline {
                Some("deadline")
            } else {
                None
            };
            if let Some(what) = unsaid {
                self.unsaid.push((seq, what));
                continue;
            }
            Message::Send(Send {
                seq,
                low,
                deadline_ms: message.deadline_ms,
                deliver_at_ms: message.deliver_at_ms,
                policy: Policy::MustDeliver,
                resend: message.sent_before,
                quiet: false,
                trace: message.trace && trace,
                content: message.content,
                target: message.recipient.target(),
                key: "",
                payload: &message.payload,
            })
            .encode(out)?;
            message.sent_before = true;
        }
        if self.again.is_empty() {
            self.loose
                .write(out, target_bytes, self.written, low, trace)?;
        }
        Ok(())
    }

    fn next_to_write(&mut self) -> Option<u64> {
        let new_first = self.broken.lacks(Rule::OldFirst) && self.written < self.next_seq;
        if !new_first && let Some(seq) = self.again.pop_first() {
            return Some(seq);
        }
        while let Some((seq, message)) = self.pending.at_or_after(self.written) {
            self.written = seq + 1;
            if !self.hold.holds(&message.recipient, seq) {
                return Some(seq);
            }
            self.hold.keep_back(&message.recipient, seq);
        }
        self.written = self.next_seq;
        None
    }

    /// Whether `write` would append something.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.again.is_empty()
            || self.loose.has_unsent()
            || self.pending.at_or_after(self.written).is_some()
    }

    /// A receipt (of a group send: it was refused as a whole). `None`: not final, or for a message that has one already.
    pub fn receipt(
        &mut self,
        now_ms: u64,
        seq: u64,
        outcome: Outcome,
        detail: &str,
    ) -> Option<Final> {
        if seq & POLICY_SEQ != 0 {
            return self.loose.receipt(seq, outcome, detail);
        }
        if outcome == Outcome::Busy {
            self.hold(now_ms, seq);
            return None;
        }
        self.take(seq)?;
        Some(Final::One(outcome, detail.to_owned()))
    }

    fn take(&mut self, seq: u64) -> Option<Pending> {
        let message = self.pending.remove(seq)?;
        self.bytes -= cost(&message.payload);
        if self.hold.until_ms.is_none() {
            self.hold.wait_ms = 0;
        }
        Some(message)
    }

    /// A part of a group report; the whole one when it is final [40].
    pub fn report(&mut self, now_ms: u64, part: &GroupReport<'_>) -> Option<Final> {
        if part.seq & POLICY_SEQ != 0 {
            return self.loose.report(part);
        }
        let message = self.pending.get_mut(part.seq)?;
        let report = message.report.get_or_insert_default();
        report.add(part);
        if !part.last {
            return None;
        }
        if report.counts[Outcome::Busy as usize - 1] > 0 {
            self.hold(now_ms, part.seq);
            return None;
        }
        self.take(part.seq)
            .and_then(|message| message.report)
            .map(|report| Final::Many(*report))
    }

    fn hold(&mut self, now_ms: u64, seq: u64) {
        let Some(message) = self.pending.get(seq) else {
            return;
        };
        self.hold.add(now_ms, &message.recipient, seq);
    }

    /// When what is held back is due.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        self.hold.until_ms
    }

    /// Lets all that is held back go out again when the wait is over, in order [36].
    pub fn handle_timeout(&mut self, now_ms: u64) {
        if self.hold.until_ms.is_none_or(|until_ms| until_ms > now_ms) {
            return;
        }
        self.again.append(&mut self.hold.release());
    }
}
