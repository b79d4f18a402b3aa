//! What the clients of a node have handled, as counts and sums of hashed ids: one call a message, nothing made.

use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use zmqgame_core::bus::hub::trace::{Sums, hash, is_sampled};
use zmqgame_core::bus::message::{MessageId, POLICY_SEQ};

/// Sums by second and sender, until they are taken.
#[pyclass(module = "zmqgame_native")]
#[derive(Default)]
pub struct HandledSums(Sums<(u64, u64)>);

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
        self.0.add((second, node_key), hash(id));
        is_sampled(id)
    }

    /// Second, sender's key, messages, sum of their ids' hashes: all since the last call.
    fn take(&mut self) -> Vec<(u64, u64, u64, u64)> {
        let sums = self.0.take(usize::MAX, |_| true).into_iter();
        sums.map(|((second, key), messages, sum)| (second, key, messages, sum))
            .collect()
    }

    /// Messages that found no room.
    #[getter]
    const fn lost(&self) -> u64 {
        self.0.lost()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HandledSums>()
}
