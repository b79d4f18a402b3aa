//! The way of store batches from the hub's loop to the thread that runs them, and back.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zmqgame_core::bus::store::{StoreBatch, StoreDone, StoreError};

use crate::wake::Wake;

/// A batch's outcome.
pub type Completion = (u64, Result<Vec<StoreDone>, StoreError>);

/// One batch is under way at a time, because that is how the hub issues them; so both sides of the
/// queue hold one at most.
#[derive(Debug)]
pub struct StoreQueue {
    state: Mutex<State>,
    changed: Condvar,
    wake: Wake,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<StoreBatch>,
    /// Number and operations of the batch that the store's thread has.
    taken: Option<(u64, usize)>,
    done: Option<Completion>,
    stopped: bool,
}

/// A completion that does not belong to the batch under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// No batch of that number is under way.
    Number(u64),
    /// As many results as operations are needed.
    Length {
        /// Operations of the batch.
        operations: usize,
        /// Results that came.
        results: usize,
    },
}

impl StoreQueue {
    /// An empty queue that wakes a loop.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the loop: a batch for the store's thread.
    pub fn put(&self, batch: StoreBatch) {
        self.lock().waiting = Some(batch);
        self.changed.notify_one();
    }

    /// Whether a batch is waiting, at work or back: the loop may not put another one.
    pub fn is_busy(&self) -> bool {
        let state = self.lock();
        state.waiting.is_some() || state.taken.is_some() || state.done.is_some()
    }

    /// From the loop: the outcome, once it is there.
    pub fn take_done(&self) -> Option<Completion> {
        self.lock().done.take()
    }

    /// From the store's thread: waits for a batch; `None` on time-out or once the loop has ended.
    pub fn next(&self, timeout: Duration) -> Option<StoreBatch> {
        let until = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(batch) = state.waiting.take() {
                state.taken = Some((batch.number, batch.ops.len()));
                return Some(batch);
            }
            let left = until.checked_duration_since(Instant::now())?;
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// From the store's thread: the outcome of the batch that it has.
    ///
    /// # Errors
    /// It is not the batch under way, or results are missing; nothing has changed then.
    pub fn finish(
        &self,
        number: u64,
        result: Result<Vec<StoreDone>, StoreError>,
    ) -> Result<(), Mismatch> {
        let mut state = self.lock();
        let Some((taken, operations)) = state.taken.filter(|&(taken, _)| taken == number) else {
            return Err(Mismatch::Number(number));
        };
        if let Ok(results) = &result
            && results.len() != operations
        {
            let results = results.len();
            return Err(Mismatch::Length {
                operations,
                results,
            });
        }
        state.taken = None;
        state.done = Some((taken, result));
        drop(state);
        self.wake.wake();
        Ok(())
    }

    /// From the loop, at its end: whoever waits goes home.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use zmqgame_core::bus::store::StoreOp;

    fn batch(number: u64) -> StoreBatch {
        let player: Arc<str> = "ada".into();
        StoreBatch {
            number,
            ops: vec![StoreOp::Know { player }],
        }
    }

    #[test]
    fn a_batch_goes_there_and_comes_back_once() {
        let wake = Wake::new().unwrap();
        let queue = Arc::new(StoreQueue::new(wake.clone()));
        assert_eq!(queue.next(Duration::from_millis(1)), None);
        let other = Arc::clone(&queue);
        let thread = std::thread::spawn(move || other.next(Duration::from_secs(20)).unwrap());
        queue.put(batch(7));
        assert_eq!(thread.join().unwrap().number, 7);
        assert!(queue.is_busy());
        assert_eq!(
            queue.finish(8, Ok(vec![StoreDone::Done])),
            Err(Mismatch::Number(8))
        );
        let too_few = Err(Mismatch::Length {
            operations: 1,
            results: 0,
        });
        assert_eq!(queue.finish(7, Ok(vec![])), too_few);
        assert!(!wake.is_pending());
        queue.finish(7, Ok(vec![StoreDone::Done])).unwrap();
        assert!(wake.is_pending());
        assert_eq!(queue.take_done(), Some((7, Ok(vec![StoreDone::Done]))));
        assert!(!queue.is_busy());
        queue.stop();
        assert_eq!(queue.next(Duration::from_secs(20)), None);
    }
}
