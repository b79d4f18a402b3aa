//! Packets on their way from the loops to the consumer: one batch under one lock, one eventfd.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zmqgame_core::stream::packet::Batch;

use crate::wake::Wake;

/// What a row costs beyond its payload: the columns.
const ROW_BYTES: usize = 25;

/// Storage of taken batches that is kept for the next ones: one is being filled, one handled.
const SPARE_BATCHES: usize = 2;
/// Storage beyond this is given back to the system: a burst is no reason to keep it.
const SPARE_BYTES: usize = 4 << 20;

/// The batch that is being gathered. Batches are numbered as they are taken: a loop can wait until one is
/// handled, which it is when its consumer comes back for more, or says so.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    spare: Mutex<Vec<Batch>>,
    wake: Wake,
    bound_bytes: usize,
    full: AtomicBool,
    /// The number of the last batch that is handled.
    handled: AtomicU64,
    /// Whether a loop waits for one.
    awaited: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    /// Batches taken so far.
    taken: u64,
    /// The first and the last that loops wait for.
    awaited: Option<(u64, u64)>,
}

/// What became of a loop's batch.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// This made the inbox full.
    pub full: bool,
    /// The batch that its rows are in.
    pub number: u64,
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
            waiting: Mutex::default(),
            spare: Mutex::default(),
            wake: Wake::new()?,
            bound_bytes,
            full: AtomicBool::new(false),
            handled: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
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

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty batch, with storage if some was given back.
    #[must_use]
    pub fn spare_batch(&self) -> Batch {
        self.spare().pop().unwrap_or_default()
    }

    /// Adds a loop's packets and leaves its batch empty. With `awaited` the loop is woken when they are
    /// handled.
    pub fn publish(&self, batch: &mut Batch, awaited: bool) -> Published {
        if batch.is_empty() {
            batch.clear();
            return Published {
                full: false,
                number: 0,
            };
        }
        let mut waiting = self.lock();
        if waiting.batch.is_empty() {
            std::mem::swap(&mut waiting.batch, batch);
        } else {
            waiting.batch.append(batch);
        }
        batch.clear();
        let number = waiting.taken + 1;
        if awaited {
            let first = waiting.awaited.map_or(number, |(first, _)| first);
            waiting.awaited = Some((first, number));
            self.awaited.store(true, Ordering::Release);
        }
        let full = size(&waiting.batch) >= self.bound_bytes;
        let full = full && !self.full.swap(true, Ordering::AcqRel);
        drop(waiting);
        self.wake.wake();
        Published { full, number }
    }

    /// Takes all packets; what was taken before is handled. Gives true beside them when loops wait for this.
    pub fn take(&self) -> (Batch, bool) {
        self.wake.drain();
        let empty = self.spare_batch();
        let mut waiting = self.lock();
        let batch = std::mem::replace(&mut waiting.batch, empty);
        let answered = self.awaited.load(Ordering::Relaxed) && self.note_handled(&mut waiting);
        waiting.taken += 1;
        drop(waiting);
        (batch, self.full.swap(false, Ordering::AcqRel) || answered)
    }

    /// All that was taken is handled, and answered. Gives whether loops wait for this.
    pub fn end_handling(&self) -> bool {
        self.awaited.load(Ordering::Acquire) && self.note_handled(&mut self.lock())
    }

    fn note_handled(&self, waiting: &mut Waiting) -> bool {
        let Some((first, last)) = waiting.awaited else {
            return false;
        };
        let handled = waiting.taken;
        self.handled.store(handled, Ordering::Release);
        if first > handled {
            return false;
        }
        waiting.awaited = (last > handled).then_some((handled + 1, last));
        self.awaited
            .store(waiting.awaited.is_some(), Ordering::Release);
        true
    }

    /// The number of the last batch that is handled, as far as loops wait for it.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Acquire)
    }

    /// Whether nothing is there to be taken, and nobody has woken the consumer.
    pub fn is_idle(&self) -> bool {
        !self.wake.is_pending() && self.lock().batch.is_empty()
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
