//! Packets on their way from the loops to the consumer: one batch under one lock, one eventfd.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zmqgame_core::stream::packet::Batch;

use crate::wake::Wake;

/// What a row costs beyond its payload: the columns.
const ROW_BYTES: usize = 25;

/// Storage of taken batches that is kept for the next ones: one is being filled, one handled.
const SPARE_BATCHES: usize = 2;
/// Storage beyond this is given back to the system: a burst is no reason to keep it.
const SPARE_BYTES: usize = 4 << 20;

/// The batch that is being gathered.
#[derive(Debug)]
pub struct Inbox {
    batch: Mutex<Batch>,
    spare: Mutex<Vec<Batch>>,
    wake: Wake,
    bound_bytes: usize,
    full: AtomicBool,
}

fn size(batch: &Batch) -> usize {
    batch.arena.len() + batch.len() * ROW_BYTES
}

impl Inbox {
    /// An empty inbox that is full from `bound_bytes` on.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new(bound_bytes: usize) -> std::io::Result<Self> {
        Ok(Self {
            batch: Mutex::default(),
            spare: Mutex::default(),
            wake: Wake::new()?,
            bound_bytes,
            full: AtomicBool::new(false),
        })
    }

    /// What the consumer waits on.
    #[must_use]
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Whether the loops are to stop reading until the consumer has taken what there is.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Adds a loop's packets and leaves its batch empty. Gives true when this made the inbox full.
    pub fn publish(&self, batch: &mut Batch) -> bool {
        if batch.is_empty() {
            batch.clear();
            return false;
        }
        let mut waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            std::mem::swap(&mut *waiting, batch);
        } else {
            waiting.append(batch);
        }
        batch.clear();
        let full = size(&waiting) >= self.bound_bytes;
        let became_full = full && !self.full.swap(true, Ordering::AcqRel);
        drop(waiting);
        self.wake.wake();
        became_full
    }

    /// An empty batch, with storage if some was given back.
    #[must_use]
    pub fn spare_batch(&self) -> Batch {
        self.spare().pop().unwrap_or_default()
    }

    /// Takes all packets. Gives true beside them when loops wait for this.
    pub fn take(&self) -> (Batch, bool) {
        self.wake.drain();
        let empty = self.spare_batch();
        let mut waiting = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = std::mem::replace(&mut *waiting, empty);
        (batch, self.full.swap(false, Ordering::AcqRel))
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the storage of a batch back that nobody looks at any more.
    pub fn give_back(&self, mut batch: Batch) {
        if batch.arena.capacity() > SPARE_BYTES || batch.kind.capacity() * ROW_BYTES > SPARE_BYTES {
            return;
        }
        batch.clear();
        let mut spare = self.spare();
        if spare.len() < SPARE_BATCHES {
            spare.push(batch);
        }
    }
}
