//! A ring buffer that grows by powers of two up to a limit and shrinks after a quiet time.
//!
//! ```text
//!   storage  [ . . d d d d . . ]      [ d d . . . . d d ]
//!                  ^head, len 4         wrapped: ^head
//! ```
//!
//! It holds nothing until the first byte comes, so that an idle connection costs no buffer. Bytes are
//! copied when they come in, when the storage changes its size, and when `contiguous` is asked for bytes
//! that wrap; never otherwise. The vectored views (`readable`, `spare`) are for `readv` and `writev`.

use std::fmt;

/// The smallest storage: below it the allocator's own overhead would dominate.
pub const SMALLEST_BYTES: usize = 256;

/// How many pieces of the capacity a peak must stay below for the time to count as quiet.
const QUIET_SHARE: usize = 4;

/// The bytes don't fit under the limit. Nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingFull {
    /// The most bytes the buffer may hold.
    pub limit_bytes: usize,
    /// What it would have had to hold.
    pub wanted_bytes: usize,
}

impl fmt::Display for RingFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ring buffer full: {} bytes wanted, limit {}",
            self.wanted_bytes, self.limit_bytes
        )
    }
}

impl std::error::Error for RingFull {}

/// Bytes in order, in storage of a power of two.
#[derive(Debug, Clone)]
pub struct RingBuffer {
    storage: Vec<u8>,
    head: usize,
    len: usize,
    limit: usize,
    /// The most bytes held since the last `tick`.
    peak: usize,
    busy_ms: u64,
}

impl RingBuffer {
    /// An empty buffer that will hold at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            storage: Vec::new(),
            head: 0,
            len: 0,
            limit,
            peak: 0,
            busy_ms: 0,
        }
    }

    /// How many bytes it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The size of the storage: zero or a power of two.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// The most bytes it may hold.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// How many bytes may still come.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.limit - self.len
    }

    /// Appends all of `bytes`, or nothing.
    ///
    /// # Errors
    /// [`RingFull`] when they don't fit under the limit.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RingFull> {
        self.reserve(bytes.len())?;
        let [first, second] = self.spare();
        let split = bytes.len().min(first.len());
        first[..split].copy_from_slice(&bytes[..split]);
        second[..bytes.len() - split].copy_from_slice(&bytes[split..]);
        self.commit(bytes.len());
        Ok(())
    }

    /// Makes room for `extra` more bytes.
    ///
    /// # Errors
    /// [`RingFull`] when they don't fit under the limit.
    pub fn reserve(&mut self, extra: usize) -> Result<(), RingFull> {
        let wanted = self.len.saturating_add(extra);
        if wanted > self.limit {
            return Err(RingFull {
                limit_bytes: self.limit,
                wanted_bytes: wanted,
            });
        }
        if wanted > self.storage.len() {
            self.resize(wanted.next_power_of_two().max(SMALLEST_BYTES));
        }
        Ok(())
    }

    /// The free storage, in the order in which it will be read: fill it, then `commit`.
    /// It may be larger than `room`; only `room` bytes may be committed.
    pub fn spare(&mut self) -> [&mut [u8]; 2] {
        let capacity = self.storage.len();
        let tail = self.head + self.len;
        if tail >= capacity {
            let start = tail - capacity;
            [&mut self.storage[start..self.head], &mut []]
        } else {
            let (front, back) = self.storage.split_at_mut(tail);
            [back, &mut front[..self.head]]
        }
    }

    /// Takes `count` bytes that were written into `spare`.
    ///
    /// # Panics
    /// When there is not that much storage or room: the caller's mistake.
    pub fn commit(&mut self, count: usize) {
        let len = self.len + count;
        assert!(
            len <= self.storage.len() && len <= self.limit,
            "more bytes committed than there is room"
        );
        self.len = len;
        self.peak = self.peak.max(len);
    }

    /// What it holds, oldest first.
    #[must_use]
    pub fn readable(&self) -> [&[u8]; 2] {
        let capacity = self.storage.len();
        let tail = self.head + self.len;
        if tail > capacity {
            [&self.storage[self.head..], &self.storage[..tail - capacity]]
        } else {
            [&self.storage[self.head..tail], &[]]
        }
    }

    /// All it holds as one slice; copies only when the bytes wrap.
    pub fn contiguous(&mut self) -> &[u8] {
        if self.head + self.len > self.storage.len() {
            self.storage.rotate_left(self.head);
            self.head = 0;
        }
        &self.storage[self.head..self.head + self.len]
    }

    /// Drops the oldest `count` bytes.
    ///
    /// # Panics
    /// When it holds fewer: the caller's mistake.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len, "more bytes consumed than there are");
        self.len -= count;
        self.head = if self.len == 0 {
            0
        } else {
            (self.head + count) & (self.storage.len() - 1)
        };
    }

    /// Drops all bytes; keeps the storage until a quiet time.
    pub fn clear(&mut self) {
        self.consume(self.len);
    }

    /// To be called now and then: after `quiet_ms` in which at most a quarter of the storage was used
    /// it shrinks to twice what it holds (to nothing when empty).
    pub fn tick(&mut self, now_ms: u64, quiet_ms: u64) {
        if self.peak > self.storage.len() / QUIET_SHARE {
            self.busy_ms = now_ms;
        } else if !self.storage.is_empty() && now_ms.saturating_sub(self.busy_ms) >= quiet_ms {
            self.shrink();
            self.busy_ms = now_ms;
        }
        self.peak = self.len;
    }

    /// Shrinks at once to twice what it holds (to nothing when empty).
    pub fn shrink(&mut self) {
        let wanted = if self.len == 0 {
            0
        } else {
            (self.len * 2).next_power_of_two().max(SMALLEST_BYTES)
        };
        if wanted < self.storage.len() {
            self.resize(wanted);
        }
    }

    fn resize(&mut self, capacity: usize) {
        let mut storage = Vec::with_capacity(capacity);
        for part in self.readable() {
            storage.extend_from_slice(part);
        }
        storage.resize(capacity, 0);
        self.storage = storage;
        self.head = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn grows_by_powers_of_two_to_its_limit_and_refuses_beyond() {
        let mut ring = RingBuffer::new(1000);
        assert_eq!(ring.capacity(), 0);
        ring.push(&[1; 200]).unwrap();
        assert_eq!(ring.capacity(), SMALLEST_BYTES);
        ring.push(&[2; 400]).unwrap();
        assert_eq!(ring.capacity(), 1024);
        let full = ring.push(&[3; 401]).unwrap_err();
        assert_eq!(
            full,
            RingFull {
                limit_bytes: 1000,
                wanted_bytes: 1001
            }
        );
        assert_eq!(ring.len(), 600);
        ring.push(&[3; 400]).unwrap();
        assert_eq!(ring.room(), 0);
    }

    #[test]
    fn shrinks_only_after_a_quiet_time() {
        let mut ring = RingBuffer::new(1 << 20);
        ring.push(&[7; 100_000]).unwrap();
        ring.consume(99_990);
        ring.tick(0, 1000);
        assert_eq!(ring.capacity(), 131_072);
        ring.tick(999, 1000);
        assert_eq!(ring.capacity(), 131_072);
        ring.tick(1000, 1000);
        assert_eq!(ring.capacity(), SMALLEST_BYTES);
        assert_eq!(ring.contiguous(), [7; 10]);
        ring.clear();
        ring.tick(1500, 1000);
        ring.tick(2500, 1000);
        assert_eq!(ring.capacity(), 0);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(Vec<u8>),
        Fill(usize),
        Consume(usize),
        Contiguous,
        Tick(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..700).prop_map(Act::Push),
            (0_usize..300).prop_map(Act::Fill),
            (0_usize..900).prop_map(Act::Consume),
            Just(Act::Contiguous),
            (0_u64..50).prop_map(Act::Tick),
        ]
    }

    proptest! {
        /// Against a naive model: whatever is done, it holds the same bytes and stays under its limits.
        #[test]
        fn does_what_a_deque_does(acts in proptest::collection::vec(act(), 1..80)) {
            const LIMIT: usize = 3000;
            let mut ring = RingBuffer::new(LIMIT);
            let mut model = VecDeque::new();
            let mut now_ms = 0;
            for act in acts {
                match act {
                    Act::Push(bytes) => {
                        let fits = model.len() + bytes.len() <= LIMIT;
                        prop_assert_eq!(ring.push(&bytes).is_ok(), fits);
                        if fits {
                            model.extend(bytes);
                        }
                    }
                    Act::Fill(most) => {
                        let count: usize = {
                            let room = ring.room();
                            let [first, second] = ring.spare();
                            let mut count = 0;
                            for (index, byte) in first.iter_mut().chain(second).take(most.min(room)).enumerate() {
                                *byte = index as u8;
                                count += 1;
                            }
                            count
                        };
                        ring.commit(count);
                        model.extend((0..count).map(|index| index as u8));
                    }
                    Act::Consume(count) => {
                        let count = count.min(model.len());
                        ring.consume(count);
                        model.drain(..count);
                    }
                    Act::Contiguous => {
                        prop_assert_eq!(ring.contiguous(), &model.iter().copied().collect::<Vec<_>>());
                    }
                    Act::Tick(ms) => {
                        now_ms += ms;
                        ring.tick(now_ms, 100);
                    }
                }
                let [first, second] = ring.readable();
                prop_assert!(first.iter().chain(second).eq(model.iter()));
                prop_assert_eq!(ring.len(), model.len());
                prop_assert!(ring.capacity() == 0 || ring.capacity().is_power_of_two());
                prop_assert!(ring.capacity() <= LIMIT.next_power_of_two());
            }
        }
    }
}
