//! Hosted players by name and by slot: a delivery finds its player without comparing names.

use hashbrown::HashTable;
use rustc_hash::FxHasher;
use std::hash::Hasher;
use std::sync::Arc;

/// A player for as long as it is hosted: who comes to its slot later is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    slot: u32,
    turn: u32,
}

/// Values by name, each in a slot that stays its own until it is removed. Iterates in the order of slots.
#[derive(Debug)]
pub struct Players<T> {
    slots: Vec<Option<(Arc<str>, T)>>,
    /// How often each slot was left.
    turns: Vec<u32>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    seed: u64,
}

fn hash(seed: u64, name: &str) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "any bits of the seed will do"
    )]
    let mut hasher = FxHasher::with_seed(seed as usize);
    hasher.write(name.as_bytes());
    hasher.finish()
}

impl<T> Players<T> {
    /// None yet. `seed`: not known to those who choose names, so that these do not collide.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            turns: Vec::new(),
            free: Vec::new(),
            by_name: HashTable::new(),
            seed,
        }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The slot of a name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<u32> {
        let is = |slot: &u32| {
            self.slots[*slot as usize]
                .as_ref()
                .is_some_and(|(other, _)| **other == *name)
        };
        self.by_name.find(hash(self.seed, name), is).copied()
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        let slot = self.slot(name)?;
        self.slots[slot as usize].as_ref().map(|(_, value)| value)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        let slot = self.slot(name)?;
        self.at_mut(slot).map(|(_, value)| value)
    }

    /// Name and value of a slot.
    pub fn at_mut(&mut self, slot: u32) -> Option<(&Arc<str>, &mut T)> {
        self.slots
            .get_mut(slot as usize)?
            .as_mut()
            .map(|(name, value)| (&*name, value))
    }

    /// Who is in a slot now.
    #[must_use]
    pub fn place(&self, slot: u32) -> Place {
        let turn = self.turns.get(slot as usize).copied().unwrap_or_default();
        Place { slot, turn }
    }

    /// Name and value of a place, unless the player is gone.
    pub fn find_mut(&mut self, place: Place) -> Option<(&Arc<str>, &mut T)> {
        let here = self.turns.get(place.slot as usize) == Some(&place.turn);
        if here { self.at_mut(place.slot) } else { None }
    }

    /// The name of a place, unless the player is gone.
    #[must_use]
    pub fn name(&self, place: Place) -> Option<&Arc<str>> {
        let here = self.turns.get(place.slot as usize) == Some(&place.turn);
        let found = self.slots.get(place.slot as usize).filter(|_| here)?;
        found.as_ref().map(|(name, _)| name)
    }

    /// Adds a name that is not here.
    pub fn insert(&mut self, name: &str, value: T) {
        debug_assert!(self.slot(name).is_none(), "{name} is here already");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.turns.push(0);
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = Some((name.into(), value));
        let (slots, seed) = (&self.slots, self.seed);
        let rehash = |slot: &u32| {
            slots[*slot as usize]
                .as_ref()
                .map_or(0, |(name, _)| hash(seed, name))
        };
        self.by_name.insert_unique(hash(seed, name), slot, rehash);
    }

    /// Takes a name out.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let slot = self.slot(name)?;
        if let Ok(entry) = self
            .by_name
            .find_entry(hash(self.seed, name), |other| *other == slot)
        {
            entry.remove();
        }
        self.free.push(slot);
        let turn = &mut self.turns[slot as usize];
        *turn = turn.wrapping_add(1);
        self.slots[slot as usize].take().map(|(_, value)| value)
    }

    /// All, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut T)> {
        self.slots
            .iter_mut()
            .flatten()
            .map(|(name, value)| (&*name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_place_is_of_one_player() {
        let mut players = Players::new(1);
        players.insert("a", 1);
        let place = players.place(players.slot("a").unwrap());
        assert_eq!(players.name(place).map(|name| &**name), Some("a"));
        players.remove("a");
        assert!(players.name(place).is_none());
        players.insert("b", 2);
        assert_eq!(players.slot("b"), Some(0));
        assert!(players.find_mut(place).is_none());
    }

    proptest! {
        #[test]
        fn does_what_a_map_does(steps in proptest::collection::vec((0u8..3, 0u8..20), 0..200), seed: u64) {
            let (mut players, mut model) = (Players::new(seed), BTreeMap::new());
            for (at, (step, name)) in steps.into_iter().enumerate() {
                let name = format!("p{name}");
                match step {
                    0 if !model.contains_key(&name) => {
                        players.insert(&name, at);
                        model.insert(name.clone(), at);
                    }
                    1 => prop_assert_eq!(players.remove(&name), model.remove(&name)),
                    _ => {}
                }
                prop_assert_eq!(players.get(&name), model.get(&name));
                prop_assert_eq!(players.len(), model.len());
            }
            let mut all: Vec<_> = players.iter_mut().map(|(name, at)| (name.to_string(), *at)).collect();
            all.sort();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
