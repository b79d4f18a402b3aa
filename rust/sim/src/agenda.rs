//! What is to happen, in the order of its time; equal times in the order in which they were planned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A queue over virtual time.
#[derive(Debug)]
pub struct Agenda<T> {
    order: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<u64, T>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            order: 0,
            heap: BinaryHeap::new(),
            what: BTreeMap::new(),
        }
    }
}

impl<T> Agenda<T> {
    /// Plans something.
    pub fn add(&mut self, at_ms: u64, what: T) {
        self.order += 1;
        self.heap.push(Reverse((at_ms, self.order)));
        self.what.insert(self.order, what);
    }

    /// When the next is to happen.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// Takes what comes next.
    pub fn take_next(&mut self) -> Option<(u64, T)> {
        let Reverse((at_ms, order)) = self.heap.pop()?;
        self.what.remove(&order).map(|what| (at_ms, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_their_order() {
        let mut agenda = Agenda::default();
        for (at, what) in [(5, "c"), (1, "a"), (5, "d"), (1, "b")] {
            agenda.add(at, what);
        }
        let order: Vec<_> = std::iter::from_fn(|| agenda.take_next()).collect();
        assert_eq!(order, [(1, "a"), (1, "b"), (5, "c"), (5, "d")]);
    }
}
