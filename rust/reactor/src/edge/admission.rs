//! That a connection is counted, wherever it is on its way, until it is gone.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::counters::Counters;
use super::shared::Shared;

/// That a connection is counted: among all, with its loop, with its client's address, with its bytes. Its
/// drop takes all of that back, wherever the connection ends.
#[derive(Debug)]
pub(super) struct Admission {
    shared: Arc<Shared>,
    owner: Option<usize>,
    client: Option<IpAddr>,
    memory_bytes: usize,
}

impl Admission {
    /// One more connection, if the limit allows it.
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        if !shared.count_in() {
            return None;
        }
        Some(Self {
            shared: Arc::clone(shared),
            owner: None,
            client: None,
            memory_bytes: 0,
        })
    }

    /// Counts it for a client's address. Gives false when that one has too many.
    pub(super) fn count_client(&mut self, client: Option<IpAddr>) -> bool {
        let limit = self.shared.config.max_connections_per_address;
        let (Some(client), true) = (client, limit > 0) else {
            return true;
        };
        let mut addresses = self.shared.addresses();
        let count = addresses.entry(client).or_insert(0);
        if *count >= limit {
            drop(addresses);
            Counters::add(&self.shared.counters.refused_address, 1);
            return false;
        }
        *count += 1;
        self.client = Some(client);
        true
    }

    /// Counts it for a loop.
    pub(super) fn count_loop(&mut self, owner: usize) {
        self.shared.loops[owner]
            .live
            .fetch_add(1, Ordering::Relaxed);
        self.owner = Some(owner);
    }

    /// Tells what it holds now. Gives false when it has grown and all together are over their bound.
    pub(super) fn count_memory(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.memory_bytes, bytes);
        if bytes > before {
            let grown = bytes - before;
            let total = self.shared.memory_bytes.fetch_add(grown, Ordering::Relaxed) + grown;
            return total <= self.shared.config.max_memory_bytes;
        }
        if bytes < before {
            let less = before - bytes;
            self.shared.memory_bytes.fetch_sub(less, Ordering::Relaxed);
        }
        true
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.count_memory(0);
        if let Some(owner) = self.owner {
            self.shared.loops[owner]
                .live
                .fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(client) = self.client {
            let mut addresses = self.shared.addresses();
            if let Some(count) = addresses.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&client);
                }
            }
        }
        self.shared.live.fetch_sub(1, Ordering::AcqRel);
    }
}
