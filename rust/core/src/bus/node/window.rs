//! Messages of one sender in seq order: added at the end, taken out anywhere, found by their place.

use std::collections::VecDeque;

/// Places that hold nothing, beyond as many as hold something: more, and they are closed up.
const MAX_HOLES: usize = 1_024;

/// Values by ascending numbers, which mostly follow each other without gaps.
#[derive(Debug)]
pub struct Window<T> {
    /// The first one, if any, holds a value.
    slots: VecDeque<(u64, Option<T>)>,
    count: usize,
}

impl<T> Window<T> {
    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            count: 0,
        }
    }

    /// How many values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The smallest number.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.slots.front().map(|(seq, _)| *seq)
    }

    /// The first place whose number is not below `seq`.
    fn place(&self, seq: u64) -> usize {
        let Some((first, _)) = self.slots.front() else {
            return 0;
        };
        // Numbers grow by at least 1 a place, so it is not behind this one.
        let last = self.slots.len() - 1;
        let guess = usize::try_from(seq.saturating_sub(*first)).map_or(last, |at| at.min(last));
        if self.slots[guess].0 == seq {
            return guess;
        }
        if self.slots[last].0 < seq {
            return last + 1;
        }
        self.slots.partition_point(|(other, _)| *other < seq)
    }

    /// Adds a value whose number is above all others.
    pub fn push(&mut self, seq: u64, value: T) {
        debug_assert!(self.slots.back().is_none_or(|(last, _)| *last < seq));
        self.slots.push_back((seq, Some(value)));
        self.count += 1;
    }

    /// The value of a number.
    #[must_use]
    pub fn get(&self, seq: u64) -> Option<&T> {
        let (found, value) = self.slots.get(self.place(seq))?;
        value.as_ref().filter(|_| *found == seq)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        let place = self.place(seq);
        let (found, value) = self.slots.get_mut(place)?;
        value.as_mut().filter(|_| *found == seq)
    }

    /// Takes a value out.
    pub fn remove(&mut self, seq: u64) -> Option<T> {
        let place = self.place(seq);
        let (found, value) = self.slots.get_mut(place)?;
        if *found != seq {
            return None;
        }
        let taken = value.take()?;
        self.count -= 1;
        while self.slots.front().is_some_and(|(_, value)| value.is_none()) {
            self.slots.pop_front();
        }
        if self.slots.len() > 2 * self.count + MAX_HOLES {
            self.slots.retain(|(_, value)| value.is_some());
        }
        Some(taken)
    }

    /// The first value whose number is not below `seq`.
    #[must_use]
    pub fn at_or_after(&self, seq: u64) -> Option<(u64, &T)> {
        let held = |(seq, value): &'_ (u64, Option<T>)| value.is_some().then_some(*seq);
        let from = self.place(seq);
        let found = (from..self.slots.len()).find(|place| held(&self.slots[*place]).is_some())?;
        let (seq, value) = &self.slots[found];
        value.as_ref().map(|value| (*seq, value))
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots
            .iter()
            .filter_map(|(seq, value)| value.as_ref().map(|value| (*seq, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn does_what_a_map_does(steps in proptest::collection::vec((0u8..4, 1u64..40), 0..300)) {
            let (mut window, mut model, mut next) = (Window::new(), BTreeMap::new(), 1);
            for (step, number) in steps {
                match step {
                    0 | 1 => {
                        // Now and then a gap.
                        next += if number == 1 { 1_000 } else { 1 };
                        window.push(next, next);
                        model.insert(next, next);
                    }
                    _ => {
                        let seq = next.saturating_sub(number);
                        prop_assert_eq!(window.remove(seq), model.remove(&seq));
                    }
                }
                let seq = next.saturating_sub(number);
                prop_assert_eq!(window.len(), model.len());
                prop_assert_eq!(window.first(), model.keys().next().copied());
                prop_assert_eq!(window.get(seq), model.get(&seq));
                let after = model.range(seq..).next().map(|(seq, value)| (*seq, value));
                prop_assert_eq!(window.at_or_after(seq), after);
            }
            let all: Vec<_> = window.iter().map(|(seq, _)| seq).collect();
            prop_assert_eq!(all, model.into_keys().collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_that_stays_does_not_keep_the_places_of_the_others() {
        let mut window = Window::new();
        for seq in 0..100_000 {
            window.push(seq, ());
            if seq > 0 {
                window.remove(seq);
            }
        }
        assert!(window.slots.len() <= MAX_HOLES + 4);
        assert_eq!((window.first(), window.len()), (Some(0), 1));
    }
}
