//! Operations for the store, in the order in which they were issued [8], and what each is for.
//!
//! One batch is under way at a time. If its outcome is unknown it is issued again, whole and in its
//! old order; nothing is confirmed before its completion.

use crate::bus::broken::{Broken, Rule};
use crate::bus::message::MessageId;
use crate::bus::store::{StoreBatch, StoreDone, StoreOp};
use std::collections::{BTreeMap, VecDeque};

/// What waits for the completion of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// The store is ours.
    Open,
    /// `stored` for the sender.
    Append {
        /// The player.
        player: u32,
        /// The message.
        id: MessageId,
        /// The session that waits.
        from: u32,
        /// Its outcome goes into a group report.
        grouped: bool,
        /// Its place there.
        place: u32,
        /// It was accepted into memory before: a full store may not refuse it for good [35].
        flush: bool,
        /// It is a group send that was sent again: a mark may be past it for more than one reason.
        again: bool,
        /// It went to the deferred list, to be delivered at this unix ms; 0: to the mailbox.
        deferred: u64,
    },
    /// Rows for a binding.
    Read {
        /// The player.
        player: u32,
        /// The binding that asked; a later one does not use the answer.
        binding: u32,
    },
    /// `accepted` for a binding.
    Accepted {
        /// The player.
        player: u32,
        /// The binding that asked.
        binding: u32,
    },
    /// Rows are gone.
    Settle {
        /// The player.
        player: u32,
        /// Up to here.
        up_to: u64,
    },
    /// `logout_done` for the node.
    Logout {
        /// The player.
        player: u32,
        /// The login that ended.
        login: u64,
        /// The session that asked.
        session: u32,
    },
    /// A membership is committed; the operation says which, and whether it begins or ends.
    Member {
        /// The player.
        player: u32,
        /// The session that asked.
        session: u32,
        /// Its request: counted down there.
        request: u64,
    },
    /// Deferred messages are rows.
    Due,
    /// What is past its deadline is deleted.
    Expire,
    /// An operator's question.
    Admin {
        /// Who asked.
        session: u32,
        /// Its number.
        call: u64,
    },
    /// Nobody waits for it; the player's record stays until it is done.
    Player {
        /// The player.
        player: u32,
    },
    /// Nobody waits for it.
    Nothing,
}

/// Where a refusal holds: player and sender, and whether of the deferred list.
pub type RefusedLine = (u32, u64, bool);

impl Purpose {
    /// Where an append stands, and its message.
    pub const fn line(&self) -> Option<(RefusedLine, MessageId)> {
        match *self {
            Self::Append {
                player,
                id,
                deferred,
                ..
            } => Some(((player, id.node_key, deferred != 0), id)),
            _ => None,
        }
    }

    /// The player whose record stays until the operation is done.
    pub const fn player(&self) -> Option<u32> {
        match *self {
            Self::Open | Self::Nothing | Self::Due | Self::Expire | Self::Admin { .. } => None,
            Self::Append { player, .. }
            | Self::Read { player, .. }
            | Self::Accepted { player, .. }
            | Self::Settle { player, .. }
            | Self::Logout { player, .. }
            | Self::Member { player, .. }
            | Self::Player { player } => Some(player),
        }
    }
}

/// An operation that waits or is under way.
#[derive(Debug, Clone)]
struct Pending {
    op: StoreOp,
    purpose: Purpose,
}

/// Why a completion was not accepted: the driver's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMismatch {
    /// No such batch is under way.
    Batch,
    /// Not one result for each operation.
    Length,
}

/// The queue of operations.
#[derive(Debug, Default)]
pub struct Mailbox {
    waiting: VecDeque<Pending>,
    under_way: Vec<Pending>,
    number: u64,
    issued: bool,
    /// Not before: set after a failure.
    pub retry_at: Option<u64>,
    failures: u32,
    /// Payload of all that is not done.
    pub bytes: usize,
    /// `Open` was done.
    pub opened: bool,
    /// Why the last batch failed; none after one that did not.
    pub failure: Option<String>,
    /// A rule that is taken away.
    pub broken: Broken,
}

/// First wait after a failure; doubled to `RETRY_MAX_MS`: a store that restarts is found soon, a dead one not hammered.
const RETRY_MS: u64 = 50;
const RETRY_MAX_MS: u64 = 2_000;
/// Operations after which sends wait: about 256 B each beside the payload, so as much as `store_bytes` by default.
pub const MAX_BACKLOG: usize = 262_144;
/// Room for operations that an empty queue keeps: some batches.
const KEEP_WAITING: usize = 4_096;

impl Mailbox {
    /// Issues an operation behind all others.
    pub fn push(&mut self, op: StoreOp, purpose: Purpose) {
        self.bytes += payload_bytes(&op);
        let read = self.opened && matches!(op, StoreOp::Read { .. });
        if read && self.broken.lacks(Rule::StoreOrder) {
            return self.waiting.push_front(Pending { op, purpose });
        }
        self.waiting.push_back(Pending { op, purpose });
    }

    /// Takes back what waits behind refused messages, of the same sender to the same player: it must not be in before
    /// the sender knows of the refusal. What goes to the mailbox and what is deferred don't wait for each other [37]: of
    /// a line that has flowed already, a refusal of a deferred one would take back what its session has.
    pub fn withdraw(&mut self, refused: &BTreeMap<RefusedLine, MessageId>) -> Vec<Purpose> {
        let mut taken = Vec::new();
        let mut freed = 0;
        self.waiting.retain(|pending| {
            let Some((line, id)) = pending.purpose.line() else {
                return true;
            };
            let Some(first) = refused.get(&line).filter(|first| first.epoch == id.epoch) else {
                return true;
            };
            if id > *first {
                freed += payload_bytes(&pending.op);
                taken.push(pending.purpose.clone());
            }
            id <= *first
        });
        self.bytes -= freed;
        taken
    }

    /// How many operations are not done.
    pub fn backlog(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    /// The wait after a failure may be over.
    pub fn wake(&mut self, now: u64) {
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
        }
    }

    /// The next batch, if none is under way and the wait after a failure is over.
    pub fn poll(&mut self, now: u64, max_ops: usize, max_bytes: usize) -> Option<StoreBatch> {
        self.wake(now);
        if self.issued || self.retry_at.is_some() {
            return None;
        }
        if self.under_way.is_empty() {
            let mut bytes = 0;
            while self.under_way.len() < max_ops.max(1)
                && (bytes < max_bytes || self.under_way.is_empty())
            {
                let Some(pending) = self.waiting.pop_front() else {
                    break;
                };
                bytes += payload_bytes(&pending.op);
                let open = matches!(pending.op, StoreOp::Open { .. });
                self.under_way.push(pending);
                if open {
                    break; // A store that is not ours is not written to.
                }
            }
        }
        if self.waiting.is_empty() && self.waiting.capacity() > KEEP_WAITING {
            self.waiting = VecDeque::new(); // A storm of logins is over.
        }
        if self.under_way.is_empty() {
            return None;
        }
        self.number += 1;
        self.issued = true;
        Some(StoreBatch {
            number: self.number,
            ops: self
                .under_way
                .iter()
                .map(|pending| pending.op.clone())
                .collect(),
        })
    }

    /// The batch was committed: what each operation was for.
    pub fn complete(
        &mut self,
        number: u64,
        done: usize,
    ) -> Result<Vec<(StoreOp, Purpose)>, StoreMismatch> {
        self.check(number)?;
        if done != self.under_way.len() {
            return Err(StoreMismatch::Length);
        }
        (self.issued, self.failures, self.failure) = (false, 0, None);
        let all = std::mem::take(&mut self.under_way);
        self.bytes -= all
            .iter()
            .map(|pending| payload_bytes(&pending.op))
            .sum::<usize>();
        Ok(all
            .into_iter()
            .map(|pending| (pending.op, pending.purpose))
            .collect())
    }

    /// Nothing of the batch may be confirmed; it is issued again later.
    pub fn fail(&mut self, now: u64, number: u64, reason: String) -> Result<(), StoreMismatch> {
        self.check(number)?;
        let wait = (RETRY_MS << self.failures.min(10)).min(RETRY_MAX_MS);
        self.failures += 1;
        (self.issued, self.retry_at, self.failure) = (false, Some(now + wait), Some(reason));
        Ok(())
    }

    fn check(&self, number: u64) -> Result<(), StoreMismatch> {
        if self.issued && number == self.number {
            Ok(())
        } else {
            Err(StoreMismatch::Batch)
        }
    }

    /// Whether a result is of the kind that the operation has.
    pub fn fits(op: &StoreOp, done: &StoreDone) -> bool {
        use StoreDone::{
            Appended, Done, Due, Expired, Full, Marks, Opened, OverQuota, Passed, Rows, Text,
            UnknownPlayer,
        };
        match op {
            StoreOp::Open { .. } => matches!(done, Opened { .. }),
            StoreOp::Append { .. } | StoreOp::Defer { .. } => {
                matches!(
                    done,
                    Appended | Passed | UnknownPlayer | Full | OverQuota { .. }
                )
            }
            StoreOp::Due { .. } => matches!(done, Due { .. }),
            StoreOp::Expire { .. } => matches!(done, Expired { .. }),
            StoreOp::Admin { .. } => matches!(done, Text { .. }),
            StoreOp::Read { .. } => matches!(done, Rows { .. }),
            StoreOp::Accepted { .. } => matches!(done, Marks { .. }),
            StoreOp::Join { .. } => matches!(done, Done | UnknownPlayer),
            _ => matches!(done, Done),
        }
    }
}

fn payload_bytes(op: &StoreOp) -> usize {
    match op {
        StoreOp::Append { payload, .. } | StoreOp::Defer { payload, .. } => payload.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(up_to: u64) -> StoreOp {
        StoreOp::Settle {
            player: "p".into(),
            up_to,
        }
    }

    #[test]
    fn a_failed_batch_comes_again_whole_and_in_its_old_order() {
        let mut mailbox = Mailbox::default();
        for row in 1..=3 {
            mailbox.push(settle(row), Purpose::Nothing);
        }
        let first = mailbox.poll(0, 2, 1).unwrap();
        assert_eq!(mailbox.poll(0, 2, 1), None);
        mailbox.push(settle(4), Purpose::Nothing);
        mailbox.fail(0, first.number, "gone".into()).unwrap();
        assert_eq!(mailbox.poll(RETRY_MS - 1, 9, 1), None);
        let again = mailbox.poll(RETRY_MS, 9, 1).unwrap();
        assert_eq!((again.ops, again.number), (first.ops, 2));
        assert_eq!(mailbox.complete(first.number, 2), Err(StoreMismatch::Batch));
        assert_eq!(
            mailbox.complete(again.number, 1),
            Err(StoreMismatch::Length)
        );
        assert_eq!(mailbox.complete(again.number, 2).unwrap().len(), 2);
        assert_eq!(
            mailbox.poll(RETRY_MS, 9, 1).unwrap().ops,
            vec![settle(3), settle(4)]
        );
    }

    #[test]
    fn nothing_is_in_one_batch_with_the_claim() {
        let mut mailbox = Mailbox::default();
        mailbox.push(
            StoreOp::Open {
                hub_epoch: 1,
                unix_ms: 0,
            },
            Purpose::Open,
        );
        mailbox.push(settle(1), Purpose::Nothing);
        assert_eq!(mailbox.poll(0, 9, 1_000).unwrap().ops.len(), 1);
    }
}
