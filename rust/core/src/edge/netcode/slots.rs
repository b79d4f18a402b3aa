/// A place in [`Slots`]: index and generation. A stale one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u32,
    generation: u32,
}

impl Place {
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_u64(value: u64) -> Self {
        Self {
            index: value as u32,
            generation: (value >> 32) as u32,
        }
    }
}

/// At most `limit` values, each at a place of its own; grows as it is used.
pub(super) struct Slots<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    limit: u32,
}

impl<T> Slots<T> {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            limit,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit as usize
    }

    /// Puts a value in; gives it back when all places are taken.
    pub(super) fn insert(&mut self, value: T) -> Result<Place, T> {
        if self.is_full() {
            return Err(value);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (generation, slot) = &mut self.slots[index as usize];
        *generation = generation.wrapping_add(1);
        *slot = Some(value);
        Ok(Place {
            index,
            generation: *generation,
        })
    }

    pub(super) fn get(&self, place: Place) -> Option<&T> {
        let (generation, slot) = self.slots.get(place.index as usize)?;
        slot.as_ref().filter(|_| *generation == place.generation)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        let (generation, slot) = self.slots.get_mut(place.index as usize)?;
        slot.as_mut().filter(|_| *generation == place.generation)
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        self.get(place)?;
        self.free.push(place.index);
        self.slots[place.index as usize].1.take()
    }

    /// The taken places that `wanted` picks, by index.
    pub(super) fn places(&self, wanted: impl Fn(&T) -> bool) -> Vec<Place> {
        let mut places = Vec::new();
        for (index, (generation, slot)) in self.slots.iter().enumerate() {
            if slot.as_ref().is_some_and(&wanted) {
                places.push(Place {
                    index: index as u32,
                    generation: *generation,
                });
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_never_found_again_after_its_value_has_gone() {
        let mut slots = Slots::new(2);
        let first = slots.insert("first").unwrap();
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second").unwrap();
        assert_eq!(second.index, first.index);
        assert_eq!(
            (slots.get(first), slots.get(second)),
            (None, Some(&"second"))
        );
        assert_eq!(slots.remove(first), None);
        assert_eq!(Place::from_u64(second.to_u64()), second);
    }

    #[test]
    fn the_limit_holds_and_a_free_place_is_used_again() {
        let mut slots = Slots::new(2);
        let places: Vec<_> = (0..2).map(|n| slots.insert(n).unwrap()).collect();
        assert_eq!(slots.insert(9), Err(9));
        slots.remove(places[0]);
        assert_eq!((slots.len(), slots.is_full()), (1, false));
        assert_eq!(slots.insert(9).unwrap().index, 0);
        assert_eq!(slots.places(|&n| n > 5).len(), 1);
    }
}
