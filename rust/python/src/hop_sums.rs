//! What the clients of a node have handled, as counts and sums of hashed ids: one call a message, nothing made.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use zmqgame_core::bus::hub::trace::{hash, is_sampled};
use zmqgame_core::bus::message::{MessageId, POLICY_SEQ};

/// Sums that wait to be taken: each sender has one a second.
const MAX_SUMS: usize = 65_536;

/// Second and sender.
type Key = (u64, u64);
/// Messages, and the wrapping sum of their ids' hashes.
type Sum = (u64, u64);

/// Sums by second and sender, until they are taken.
#[pyclass(module = "zmqgame_native")]
#[derive(Default)]
pub struct HandledSums {
    sums: BTreeMap<Key, Sum>,
    /// The one that was added to last: most messages belong to it.
    last: Option<(Key, Sum)>,
    lost: u64,
}

impl HandledSums {
    fn put(&mut self, key: Key, of_id: u64) {
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
}

#[pymethods]
impl HandledSums {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// One message was handled. True: it is one of those that are sampled. `latest` and `droppable` don't count.
    fn add(&mut self, id: (u64, u64, u64)) -> bool {
        let (node_key, epoch, seq) = id;
        if seq & POLICY_SEQ != 0 {
            return false;
        }
        let id = MessageId {
            node_key,
            epoch,
            seq,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = now.map_or(0, |now| now.as_secs());
        self.put((second, node_key), hash(id));
        is_sampled(id)
    }

    /// Second, sender's key, messages, sum of their ids' hashes: all since the last call.
    fn take(&mut self) -> Vec<(u64, u64, u64, u64)> {
        self.settle();
        let sums = std::mem::take(&mut self.sums).into_iter();
        sums.map(|((second, key), (messages, sum))| (second, key, messages, sum))
            .collect()
    }

    /// Messages that found no room.
    #[getter]
    const fn lost(&self) -> u64 {
        self.lost
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HandledSums>()
}
