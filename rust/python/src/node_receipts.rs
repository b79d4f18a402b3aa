//! Receipts of many messages at once: kept here until a batch is whole, so that Python sees one event for all.

use std::collections::BTreeMap;
use std::time::Instant;

/// Outcomes on the wire, and one for "none yet".
pub const OUTCOMES: usize = 9;

/// Messages of one call, of consecutive seqs.
pub struct Batch {
    /// By position; 0: none yet.
    pub outcomes: Vec<u8>,
    /// From the call to the receipt, by position.
    pub latencies_us: Vec<u32>,
    /// Of the few that have one: position, words.
    pub details: Vec<(usize, String)>,
    missing: usize,
    began: Instant,
}

enum Range {
    Batch(Batch),
    /// Only counted: how many seqs, how many of them without a receipt.
    Posted {
        length: u64,
        missing: u64,
    },
}

/// What became of a receipt.
pub enum Taken {
    /// Of a message that was sent alone: somebody waits for just that.
    Alone,
    /// Counted, or noted in a batch that is not whole yet.
    Noted,
    /// The last one of a batch, whose first seq this is.
    Whole(u64, Batch),
}

/// Batches and counted messages, by their first seq.
#[derive(Default)]
pub struct Receipts {
    ranges: BTreeMap<u64, Range>,
    /// Of posted messages, by outcome; 0: waiting.
    pub posted: [u64; OUTCOMES],
}

impl Receipts {
    /// Messages of one call went out.
    pub fn batch(&mut self, first: u64, count: usize) {
        let batch = Batch {
            outcomes: vec![0; count],
            latencies_us: vec![0; count],
            details: Vec::new(),
            missing: count,
            began: Instant::now(),
        };
        self.ranges.insert(first, Range::Batch(batch));
    }

    /// A message went out whose receipt is only counted.
    pub fn posted(&mut self, seq: u64) {
        self.posted[0] += 1;
        if let Some((first, Range::Posted { length, missing })) =
            self.ranges.range_mut(..seq).next_back()
            && first + *length == seq
        {
            *length += 1;
            *missing += 1;
            return;
        }
        let range = Range::Posted {
            length: 1,
            missing: 1,
        };
        self.ranges.insert(seq, range);
    }

    /// A final receipt. `now`: of the batch of events that it came with.
    pub fn take(&mut self, seq: u64, outcome: u8, detail: &str, now: Instant) -> Taken {
        let Some((&first, range)) = self.ranges.range_mut(..=seq).next_back() else {
            return Taken::Alone;
        };
        let at = (seq - first) as usize;
        match range {
            Range::Batch(batch) if at < batch.outcomes.len() => {
                if outcome != 0 {
                    batch.outcomes[at] = outcome;
                }
                let latency = now.saturating_duration_since(batch.began);
                batch.latencies_us[at] = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
                if !detail.is_empty() {
                    batch.details.push((at, detail.to_owned()));
                }
                batch.missing -= 1;
                if batch.missing > 0 {
                    return Taken::Noted;
                }
                match self.ranges.remove(&first) {
                    Some(Range::Batch(batch)) => Taken::Whole(first, batch),
                    _ => Taken::Noted,
                }
            }
            Range::Posted { length, missing } if (at as u64) < *length => {
                self.posted[0] -= 1;
                self.posted[usize::from(outcome).min(OUTCOMES - 1)] += 1;
                *missing -= 1;
                if *missing == 0 {
                    self.ranges.remove(&first);
                }
                Taken::Noted
            }
            _ => Taken::Alone,
        }
    }
}
