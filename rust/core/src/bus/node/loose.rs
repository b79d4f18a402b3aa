//! Messages of the policies `latest` and `droppable`: never sent again, in no window [33].
//!
//! | event | next |
//! |---|---|
//! | sent by the owner while the link is up | waits for its turn behind what was sent before it |
//! | sent while it is down, or with no room | `dropped` at once |
//! | written | `quiet`: forgotten; else waits for its receipt |
//! | link lost | not written: `dropped`; written: nobody knows |

use super::limits::{LOOSE_BYTES, LOOSE_MESSAGES};
use super::report::Report;
use super::sender::{Final, Recipient};
use crate::bus::message::{Content, GroupReport, Message, Outcome, POLICY_SEQ, Policy, Send};
use crate::error::WireError;
use std::collections::{BTreeSet, VecDeque};

#[derive(Debug)]
struct Loose {
    seq: u64,
    /// The seq that the next must-deliver message had: those below go first.
    behind: u64,
    recipient: Recipient,
    content: Content,
    payload: Vec<u8>,
    policy: Policy,
    key: String,
    deadline_ms: u64,
    quiet: bool,
    trace: bool,
}

/// What a message of these policies is.
#[derive(Debug, Clone, Copy)]
pub struct LooseOptions<'a> {
    /// Not must-deliver.
    pub policy: Policy,
    /// What a `latest` replaces.
    pub key: &'a str,
    /// Unix ms; 0 none.
    pub deadline_ms: u64,
    /// No receipt is wanted.
    pub quiet: bool,
    /// Every hop is recorded.
    pub trace: bool,
}

/// What the owner is told of a message of these policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LooseEnd {
    /// It did not go out.
    Dropped(&'static str),
    /// The link was lost behind it: no receipt will come.
    Lost,
}

/// All of one sender.
#[derive(Debug)]
pub struct LooseMessages {
    waiting: VecDeque<Loose>,
    bytes: usize,
    next_seq: u64,
    /// Written, receipt wanted.
    unreceipted: BTreeSet<u64>,
    /// Ended without the hub; for the owner.
    ended: VecDeque<(u64, LooseEnd)>,
}

impl Default for LooseMessages {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            next_seq: POLICY_SEQ + 1,
            unreceipted: BTreeSet::new(),
            ended: VecDeque::new(),
        }
    }
}

impl LooseMessages {
    /// Takes a message; its seq. `refusal`: why it can't go out at all now.
    pub fn push(
        &mut self,
        recipient: Recipient,
        content: Content,
        payload: &[u8],
        options: LooseOptions<'_>,
        behind: u64,
        refusal: Option<&'static str>,
    ) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let full = self.waiting.len() >= LOOSE_MESSAGES || self.bytes + payload.len() > LOOSE_BYTES;
        let unanswered = !options.quiet && self.unreceipted.len() >= LOOSE_MESSAGES;
        let refusal = refusal
            .or(full.then_some("too many wait for the socket"))
            .or(unanswered.then_some("too many wait for their receipt"));
        if let Some(why) = refusal {
            if !options.quiet {
                self.ended.push_back((seq, LooseEnd::Dropped(why)));
            }
            return seq;
        }
        self.bytes += payload.len();
        self.waiting.push_back(Loose {
            seq,
            behind,
            recipient,
            content,
            payload: payload.to_vec(),
            policy: options.policy,
            key: options.key.to_owned(),
            deadline_ms: options.deadline_ms,
            quiet: options.quiet,
            trace: options.trace,
        });
        seq
    }

    /// Whether something waits for the socket.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Appends those whose turn it is, now that all must-deliver messages below `written` went out.
    ///
    /// # Errors
    /// Never for names and sizes that were checked.
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        target_bytes: usize,
        written: u64,
        low: u64,
        trace: bool,
    ) -> Result<(), WireError> {
        while out.len() < target_bytes
            && self
                .waiting
                .front()
                .is_some_and(|loose| loose.behind <= written)
            && let Some(loose) = self.waiting.pop_front()
        {
            self.bytes -= loose.payload.len();
            Message::Send(Send {
                seq: loose.seq,
                low,
                deadline_ms: loose.deadline_ms,
                deliver_at_ms: 0,
                policy: loose.policy,
                resend: false,
                quiet: loose.quiet,
                trace: loose.trace && trace,
                content: loose.content,
                target: loose.recipient.target(),
                key: &loose.key,
                payload: &loose.payload,
            })
            .encode(out)?;
            if !loose.quiet {
                self.unreceipted.insert(loose.seq);
            }
        }
        Ok(())
    }

    /// The receipt of one.
    pub fn receipt(&mut self, seq: u64, outcome: Outcome, detail: &str) -> Option<Final> {
        self.unreceipted
            .remove(&seq)
            .then(|| Final::One(outcome, detail.to_owned()))
    }

    /// The report of one to a group: counts only.
    pub fn report(&mut self, part: &GroupReport<'_>) -> Option<Final> {
        if !part.last || !self.unreceipted.remove(&part.seq) {
            return None;
        }
        Some(Final::Many(Report {
            counts: part.counts,
            omitted: part.omitted,
            players: part.entries.into(),
        }))
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        let unreceipted = std::mem::take(&mut self.unreceipted).into_iter();
        self.ended
            .extend(unreceipted.map(|seq| (seq, LooseEnd::Lost)));
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let wanted = waiting.filter(|loose| !loose.quiet);
        self.ended
            .extend(wanted.map(|loose| (loose.seq, LooseEnd::Dropped("the link was lost"))));
        self.bytes = 0;
    }

    /// The next one that ended without the hub.
    pub fn poll_ended(&mut self) -> Option<(u64, LooseEnd)> {
        self.ended.pop_front()
    }
}
