//! Where is my message: hops of some messages, and sums of hashed ids of all.
//!
//! A hop is recorded of messages with the flag *trace*, of those that go to the mailbox, and of one in 1,024 by
//! its id. They wait in a bounded ring until the driver takes them: what does not fit is counted. Of every message
//! that was answered `delivered` or `stored`, the count and the sum of its id's hash are kept by sender, host and
//! second: compared with what hosts have handled, one lost or doubled shows.

use crate::bus::message::MessageId;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Hops that wait to be taken: a second of what the driver takes.
pub const MAX_HOPS: usize = 8_192;
/// Of these, for messages that nobody asked about: the rest is for those with the flag.
const MAX_COMMON_HOPS: usize = MAX_HOPS / 2;
/// Messages with the flag that are known as such: an operator's, not a load.
pub const MAX_FLAGGED: usize = 4_096;
/// Sums that wait to be taken: each pair of sender and host has one a second.
pub const MAX_SUMS: usize = 65_536;
/// One in so many messages is sampled.
pub const SAMPLE: u64 = 1_024;

/// Spreads ids evenly, and is the same everywhere: sums of it are compared across processes.
#[must_use]
pub const fn hash(id: MessageId) -> u64 {
    let mut x = id.node_key
        ^ id.epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
        ^ id.seq.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Whether a message is one of those that are sampled.
#[must_use]
pub const fn is_sampled(id: MessageId) -> bool {
    hash(id).is_multiple_of(SAMPLE)
}

/// A step of a message's way through the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HopKind {
    /// Accepted from its sender.
    Accepted,
    /// Committed by the mailbox.
    Stored,
    /// On its way to the node that hosts the player.
    Sent,
    /// The host acked it: handled.
    Acked,
    /// Its deadline passed.
    Expired,
    /// Dropped: latest and droppable.
    Dropped,
    /// Refused.
    Refused,
    /// Not accepted now: it comes again.
    Busy,
    /// The recipient's mark is past it: handled before, or joined later.
    Passed,
    /// The deferred list's turn: a row under the id that its detail names [37].
    Due,
}

impl HopKind {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Stored => "stored",
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Passed => "passed",
            Self::Due => "due",
        }
    }
}

/// One step of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// When, by the hub's clock.
    pub at_us: u64,
    /// What.
    pub kind: HopKind,
    /// The message.
    pub id: MessageId,
    /// The recipient; the group or the scope at `Accepted`.
    pub player: Arc<str>,
    /// The sender's node at `Accepted`, the player's host at `Sent` and `Acked`.
    pub node: Arc<str>,
    /// The row of the mailbox, if it came out of it.
    pub row: u64,
    /// Why; at `Due` the id that it has from now on, as tables have ids.
    pub detail: Cow<'static, str>,
}

/// What a sum is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SumKey {
    /// Of the hub's clock.
    pub second: u64,
    /// The outcome, as on the wire.
    pub outcome: u8,
    /// The sender's session.
    pub from: u32,
    /// The host's session, or `NONE`.
    pub host: u32,
}

/// Hops and sums that wait for the driver.
#[derive(Debug, Default)]
pub struct Trace {
    hops: VecDeque<Hop>,
    flagged: BTreeSet<MessageId>,
    flagged_order: VecDeque<MessageId>,
    sums: Sums<SumKey>,
    /// Hops that found no room.
    pub hops_lost: u64,
}

impl Trace {
    /// Every hop of this message is wanted.
    pub fn flag(&mut self, id: MessageId) {
        if self.flagged.insert(id) {
            self.flagged_order.push_back(id);
            if self.flagged_order.len() > MAX_FLAGGED
                && let Some(oldest) = self.flagged_order.pop_front()
            {
                self.flagged.remove(&oldest);
            }
        }
    }

    /// Whether its sender set the flag.
    pub fn is_flagged(&self, id: MessageId) -> bool {
        !self.flagged.is_empty() && self.flagged.contains(&id)
    }

    /// Whether its hops are recorded.
    pub fn wants(&self, id: MessageId) -> bool {
        is_sampled(id) || self.is_flagged(id)
    }

    /// Whether a hop of it would be kept; counts it as lost if not. Asked first, so that a full ring costs nothing.
    pub fn has_room(&mut self, id: MessageId) -> bool {
        let room = if self.is_flagged(id) {
            MAX_HOPS
        } else {
            MAX_COMMON_HOPS
        };
        let fits = self.hops.len() < room;
        self.hops_lost += u64::from(!fits);
        fits
    }

    /// Keeps a hop.
    pub fn push(&mut self, hop: Hop) {
        self.hops.push_back(hop);
    }

    /// The oldest hops.
    pub fn take_hops(&mut self, most: usize) -> Vec<Hop> {
        self.hops.drain(..most.min(self.hops.len())).collect()
    }

    /// One recipient of a message has this outcome.
    pub fn add(&mut self, key: SumKey, id: MessageId) {
        self.sums.add(key, hash(id));
    }

    /// Messages whose sums found no room.
    pub const fn sums_lost(&self) -> u64 {
        self.sums.lost()
    }

    /// The sums of the seconds before this one, at most so many.
    pub fn take_sums(&mut self, before_second: u64, most: usize) -> Vec<(SumKey, u64, u64)> {
        self.sums.take(most, |key| key.second < before_second)
    }
}

/// Counts and wrapping sums of hashed ids by key, until they are taken.
#[derive(Debug)]
pub struct Sums<K> {
    sums: BTreeMap<K, (u64, u64)>,
    /// The one that was added to last: most messages belong to it.
    last: Option<(K, (u64, u64))>,
    lost: u64,
}

impl<K> Default for Sums<K> {
    fn default() -> Self {
        Self {
            sums: BTreeMap::new(),
            last: None,
            lost: 0,
        }
    }
}

impl<K: Ord + Copy> Sums<K> {
    /// One message more; without room for its key it is lost.
    pub fn add(&mut self, key: K, of_id: u64) {
        if let Some((last, (messages, sum))) = &mut self.last
            && *last == key
        {
            *messages += 1;
            *sum = sum.wrapping_add(of_id);
            return;
        }
        self.settle();
        if self.sums.len() >= MAX_SUMS && !self.sums.contains_key(&key) {
            self.lost += 1;
            return;
        }
        let (messages, sum) = self.sums.remove(&key).unwrap_or_default();
        self.last = Some((key, (messages + 1, sum.wrapping_add(of_id))));
    }

    fn settle(&mut self) {
        if let Some((key, sum)) = self.last.take() {
            self.sums.insert(key, sum);
        }
    }

    /// The first ones, while they are wanted, at most so many: key, messages, sum.
    pub fn take(&mut self, most: usize, wanted: impl Fn(&K) -> bool) -> Vec<(K, u64, u64)> {
        self.settle();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(entry) = self.sums.first_entry()
            && wanted(entry.key())
        {
            let (key, (messages, sum)) = entry.remove_entry();
            taken.push((key, messages, sum));
        }
        taken
    }
}

impl<K> Sums<K> {
    /// Messages that found no room.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(seq: u64) -> MessageId {
        MessageId {
            node_key: 7,
            epoch: 3,
            seq,
        }
    }

    fn hop(seq: u64) -> Hop {
        let (player, node) = ("p".into(), "n".into());
        Hop {
            at_us: 1,
            kind: HopKind::Sent,
            id: id(seq),
            player,
            node,
            row: 0,
            detail: "".into(),
        }
    }

    #[test]
    fn one_in_a_thousand_is_sampled() {
        let sampled = (0..1_000_000).filter(|seq| is_sampled(id(*seq))).count();
        assert!((800..1_200).contains(&sampled), "{sampled}");
    }

    #[test]
    fn what_was_asked_for_has_room_when_the_rest_has_none() {
        let mut trace = Trace::default();
        trace.flag(id(1));
        for seq in 2..10_000 {
            if trace.has_room(id(seq)) {
                trace.push(hop(seq));
            }
        }
        assert_eq!(trace.hops.len(), MAX_COMMON_HOPS);
        assert_eq!(trace.hops_lost, 9_998 - MAX_COMMON_HOPS as u64);
        assert!(trace.has_room(id(1)));
        assert_eq!(trace.take_hops(10).len(), 10);
        assert_eq!(trace.take_hops(10)[0].id, id(12));
    }

    #[test]
    fn flags_are_bounded() {
        let mut trace = Trace::default();
        (0..10_000).for_each(|seq| trace.flag(id(seq)));
        assert_eq!(
            (trace.flagged.len(), trace.flagged_order.len()),
            (MAX_FLAGGED, MAX_FLAGGED)
        );
        assert!(trace.is_flagged(id(9_999)) && !trace.is_flagged(id(0)));
    }

    proptest! {
        /// Whatever the order of pairs, sums are those of each pair and second, and each is taken once.
        #[test]
        fn sums_are_whole(steps in proptest::collection::vec((0u64..3, 0u32..3, 0u64..50), 0..200)) {
            let (mut trace, mut expected) = (Trace::default(), BTreeMap::new());
            for (second, from, seq) in steps {
                let key = SumKey { second, outcome: 1, from, host: 0 };
                trace.add(key, id(seq));
                let sum: &mut (u64, u64) = expected.entry(key).or_default();
                *sum = (sum.0 + 1, sum.1.wrapping_add(hash(id(seq))));
            }
            let mut taken = trace.take_sums(2, 3);
            taken.extend(trace.take_sums(2, usize::MAX));
            prop_assert!(taken.iter().all(|(key, ..)| key.second < 2));
            taken.extend(trace.take_sums(3, usize::MAX));
            let taken: Vec<_> = taken.into_iter().map(|(key, count, sum)| (key, (count, sum))).collect();
            prop_assert_eq!(taken, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
