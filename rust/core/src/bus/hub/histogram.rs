//! Latencies in fixed buckets, and the times of arrival that they are taken from.

use std::collections::VecDeque;

/// Upper bounds of the buckets, in microseconds; one more bucket holds what is longer.
///
/// From a tenth of a local round trip to the longest that a person would wait: three buckets a factor of ten.
pub const BOUNDS_US: [u64; 18] = [
    20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

/// How many took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By bucket, not cumulative.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// The sum of all.
    pub sum_us: u64,
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, us: u64) {
        self.counts[BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

const UNSEEN: u64 = 0;
const ANSWERED: u64 = u64::MAX;

/// When the sends of one node came that have no receipt yet. Their numbers are dense, so this is a ring.
#[derive(Debug, Default)]
pub struct Arrivals {
    epoch: u64,
    first: u64,
    /// By seq; `UNSEEN` and `ANSWERED` are no times.
    times: VecDeque<u64>,
}

impl Arrivals {
    /// A send came; what came before under this seq keeps its time. `most`: the sender's window.
    pub fn came(&mut self, epoch: u64, seq: u64, now_us: u64, most: usize) {
        let idle = self.times.is_empty() && seq >= self.first;
        if epoch > self.epoch || (idle && epoch == self.epoch) {
            self.times.clear();
            (self.epoch, self.first) = (epoch, seq);
        }
        let Some(at) = seq.checked_sub(self.first).filter(|_| epoch == self.epoch) else {
            return; // Answered before: its receipt was lost, and it comes again.
        };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if at >= most {
            return; // The node breaks its window.
        }
        if at >= self.times.len() {
            self.times.resize(at + 1, UNSEEN);
        }
        if self.times[at] == UNSEEN {
            self.times[at] = now_us.max(1);
        }
    }

    /// A receipt is given: how long after the send came. After a final one there is no other.
    pub fn answered(&mut self, epoch: u64, seq: u64, now_us: u64, is_final: bool) -> Option<u64> {
        let at = seq
            .checked_sub(self.first)
            .filter(|_| epoch == self.epoch)?;
        let slot = self.times.get_mut(usize::try_from(at).ok()?)?;
        let came = *slot;
        if is_final {
            *slot = ANSWERED;
        }
        while matches!(self.times.front(), Some(&UNSEEN | &ANSWERED)) {
            self.times.pop_front();
            self.first += 1;
        }
        (came != UNSEEN && came != ANSWERED).then(|| now_us.saturating_sub(came))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for us in [0, 20, 21, 10_000_000, 10_000_001, u64::MAX] {
            histogram.add(us);
        }
        assert_eq!(
            (
                histogram.counts[0],
                histogram.counts[1],
                histogram.counts[17],
                histogram.counts[18]
            ),
            (2, 1, 1, 2)
        );
        assert_eq!((histogram.total(), histogram.sum_us), (6, u64::MAX));
    }

    #[test]
    fn a_new_epoch_forgets_the_old_one() {
        let mut arrivals = Arrivals::default();
        arrivals.came(1, 5, 10, 8);
        arrivals.came(2, 1, 20, 8);
        assert_eq!(arrivals.answered(1, 5, 30, true), None);
        assert_eq!(arrivals.answered(2, 1, 30, false), Some(10));
        assert_eq!(arrivals.answered(2, 1, 30, true), Some(10));
        assert_eq!(arrivals.answered(2, 1, 40, true), None);
        arrivals.came(2, 1, 50, 8);
        assert_eq!(
            arrivals.answered(2, 1, 60, true),
            None,
            "its receipt was lost: it comes again"
        );
    }

    proptest! {
        /// Against a map: the first answer to a send that came has its time, no other has one; memory is bounded.
        #[test]
        fn answers_have_the_time_of_their_send(steps in proptest::collection::vec((any::<bool>(), 0u64..24), 0..200)) {
            let (mut arrivals, mut open, mut next) = (Arrivals::default(), BTreeMap::new(), 0);
            for (now, (send, pick)) in (2..).zip(steps) {
                // As a node does it: numbers in order, within a window; what is open or was answered comes again.
                let low = open.keys().next().copied().unwrap_or(next);
                let seq = if send && pick > 8 { next } else { pick.min(next) };
                if send && (seq < next || next < low + 16) {
                    arrivals.came(1, seq, now, 16);
                    if seq == next {
                        open.insert(seq, now);
                        next += 1;
                    }
                } else if !send {
                    let expected = open.remove(&seq).map(|came| now - came);
                    prop_assert_eq!(arrivals.answered(1, seq, now, true), expected);
                }
                prop_assert!(arrivals.times.len() <= 16);
            }
        }
    }
}
