//! Connection ids, and what any thread may know of a connection: open or not, and bytes queued.
//!
//! ```text
//!   id       0 | generation 31 bits | loop 8 bits | slot 24 bits     never used twice, fits an i64
//!   state    generation 32 bits | queued bytes 32 bits              one atomic: no lock on the send path
//! ```
//!
//! The loop that owns a slot opens and closes it; any thread may charge bytes to it. Generation and
//! bytes change together, so that a charge can't land on the slot's next connection.

use std::sync::atomic::{AtomicU64, Ordering};

const SLOT_BITS: u32 = 24;
const LOOP_BITS: u32 = 8;
/// The largest generation; then the slot is not used any more (after 2^31 connections).
const LAST_GENERATION: u32 = i32::MAX as u32;
/// In place of the queued bytes: nothing more is taken.
const CLOSING: u32 = u32::MAX;

/// Which loop and slot an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The loop.
    pub owner: usize,
    /// The slot in the loop's table.
    pub slot: usize,
    /// Which of the slot's connections.
    pub generation: u32,
}

impl Place {
    /// Takes an id apart; any number gives a place, which may be nowhere.
    #[must_use]
    pub fn of(id: u64) -> Self {
        Self {
            owner: (id >> SLOT_BITS) as usize & ((1 << LOOP_BITS) - 1),
            slot: id as usize & ((1 << SLOT_BITS) - 1),
            generation: (id >> (SLOT_BITS + LOOP_BITS)) as u32,
        }
    }

    /// The id.
    #[must_use]
    pub fn id(self) -> u64 {
        u64::from(self.generation) << (SLOT_BITS + LOOP_BITS)
            | (self.owner as u64) << SLOT_BITS
            | self.slot as u64
    }
}

/// Why bytes were not charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCharged {
    /// No such connection, or it is closing.
    Closed,
    /// Over the bound; the first to hit it marks the connection as closing.
    Full,
    /// Over the bound, and it stays as it is.
    Dropped,
}

/// What happens to a connection whose bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtBound {
    /// It is closing from now on.
    Close,
    /// Nothing.
    Drop,
}

/// The states of one loop's connections.
#[derive(Debug)]
pub struct Table {
    owner: usize,
    states: Vec<AtomicU64>,
}

fn state_of(generation: u32, queued: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(queued)
}

fn queued_of(state: u64) -> u32 {
    state as u32
}

fn generation_of(state: u64) -> u32 {
    (state >> 32) as u32
}

impl Table {
    /// A table of closed slots.
    #[must_use]
    pub fn new(owner: usize, slots: usize) -> Self {
        // Even the first generation differs from 0, so that id 0 is nobody.
        let states = (0..slots)
            .map(|_| AtomicU64::new(state_of(0, CLOSING)))
            .collect();
        Self { owner, states }
    }

    /// Opens the slot's next connection and gives its id; `None` when the slot is used up.
    /// Only the owning loop calls this, on a slot that is closed.
    pub fn open(&self, slot: usize) -> Option<u64> {
        let state = self.states.get(slot)?;
        let generation = generation_of(state.load(Ordering::Acquire)) + 1;
        if generation >= LAST_GENERATION {
            return None;
        }
        state.store(state_of(generation, 0), Ordering::Release);
        Some(
            Place {
                owner: self.owner,
                slot,
                generation,
            }
            .id(),
        )
    }

    /// The bytes charged to it; `None` when it is closed.
    pub fn queued(&self, id: u64) -> Option<usize> {
        let place = Place::of(id);
        let state = self.states.get(place.slot)?.load(Ordering::Acquire);
        let open = generation_of(state) == place.generation && queued_of(state) != CLOSING;
        open.then(|| queued_of(state) as usize)
    }

    /// From now on nothing more is charged to it. Gives whether something was until now.
    pub fn close(&self, id: u64) -> bool {
        self.update(id, |_| Some(CLOSING)).is_some()
    }

    /// The same for all.
    pub fn close_all(&self) {
        for state in &self.states {
            state.fetch_or(u64::from(CLOSING), Ordering::AcqRel);
        }
    }

    /// Charges bytes that are to be sent.
    ///
    /// # Errors
    /// It is closed, or this would go over `bound`.
    pub fn charge(
        &self,
        id: u64,
        bytes: usize,
        bound: usize,
        at_bound: AtBound,
    ) -> Result<(), NotCharged> {
        let fits = |queued: u32| {
            let total = queued as usize + bytes;
            if total <= bound {
                u32::try_from(total).ok()
            } else {
                None
            }
        };
        let over = |queued: u32| match at_bound {
            AtBound::Close => CLOSING,
            AtBound::Drop => queued,
        };
        match self.update(id, |queued| Some(fits(queued).unwrap_or(over(queued)))) {
            None => Err(NotCharged::Closed),
            Some(before) if fits(before).is_none() => Err(match at_bound {
                AtBound::Close => NotCharged::Full,
                AtBound::Drop => NotCharged::Dropped,
            }),
            Some(_) => Ok(()),
        }
    }

    /// Takes back what was charged and charges what is there now instead.
    pub fn recharge(&self, id: u64, before: usize, after: usize) {
        let _ = self.update(id, |queued| {
            Some(
                (queued as usize + after)
                    .saturating_sub(before)
                    .min(CLOSING as usize - 1) as u32,
            )
        });
    }

    /// Changes the queued bytes of an open connection; gives what they were.
    fn update(&self, id: u64, change: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let place = Place::of(id);
        let state = self.states.get(place.slot)?;
        let changed = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            if generation_of(now) != place.generation || queued_of(now) == CLOSING {
                return None;
            }
            change(queued_of(now)).map(|queued| state_of(place.generation, queued))
        });
        changed.ok().map(queued_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_used_twice_and_old_ones_name_nobody() {
        let table = Table::new(3, 10);
        assert_eq!(
            table.charge(0, 1, 100, AtBound::Close),
            Err(NotCharged::Closed)
        );
        let first = table.open(4).unwrap();
        assert_eq!(
            Place::of(first),
            Place {
                owner: 3,
                slot: 4,
                generation: 1
            }
        );
        assert_eq!(table.charge(first, 60, 100, AtBound::Close), Ok(()));
        table.close(first);
        let second = table.open(4).unwrap();
        assert_ne!(first, second);
        assert_eq!(
            table.charge(first, 1, 100, AtBound::Close),
            Err(NotCharged::Closed)
        );
        table.recharge(first, 60, 0);
        assert_eq!(table.charge(second, 100, 100, AtBound::Close), Ok(()));
        assert_eq!(table.open(10), None);
        for id in [u64::MAX, first + 1, 1 << 60] {
            assert_eq!(
                table.charge(id, 1, 100, AtBound::Close),
                Err(NotCharged::Closed)
            );
        }
    }

    #[test]
    fn at_its_bound_it_is_closing() {
        let table = Table::new(0, 1);
        let id = table.open(0).unwrap();
        assert_eq!(table.charge(id, 90, 100, AtBound::Close), Ok(()));
        table.recharge(id, 90, 40);
        assert_eq!(table.charge(id, 60, 100, AtBound::Close), Ok(()));
        assert_eq!(
            table.charge(id, 1, 100, AtBound::Close),
            Err(NotCharged::Full)
        );
        assert_eq!(
            table.charge(id, 1, 100, AtBound::Close),
            Err(NotCharged::Closed)
        );
    }

    #[test]
    fn what_may_be_dropped_does_not_close() {
        let table = Table::new(0, 1);
        let id = table.open(0).unwrap();
        assert_eq!(table.charge(id, 90, 100, AtBound::Drop), Ok(()));
        let dropped = table.charge(id, 11, 100, AtBound::Drop);
        assert_eq!(dropped, Err(NotCharged::Dropped));
        assert_eq!(table.charge(id, 10, 100, AtBound::Close), Ok(()));
    }
}
