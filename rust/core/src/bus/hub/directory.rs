//! Players by name and by binding, and what the hub knows of each: small, because there may be millions.

use crate::bus::hub::line::Line;
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// A map whose order is never used, with a hash that is the same in every run.
pub type FixedMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<FxHasher>>;

/// No session.
pub const NONE: u32 = u32::MAX;

/// Where a player's line stands (BUS.md section 6). `hold` is `Offline` while the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody hosts it.
    Offline,
    /// Its host's link is down, or has not registered it yet.
    Waiting,
    /// Bound; the mailbox is being read.
    Drain,
    /// Bound; messages go straight through.
    Live,
}

/// One player. Everything that only busy players need is in `line`.
#[derive(Debug)]
pub struct Player {
    /// Its name; shared with store operations.
    pub name: Arc<str>,
    /// The highest login seen.
    pub login: u64,
    /// Queue, sent, rows; made when needed.
    pub line: Option<Box<Line>>,
    /// Groups it is in, in order.
    pub groups: Memberships,
    /// Low half of the current binding (the high half is the hub epoch); 0 none.
    pub binding: u32,
    /// The next number in this binding.
    pub next_number: u32,
    /// The session that hosts it, or `NONE`.
    pub host: u32,
    /// Its place in that session's list.
    pub host_at: u32,
    /// Where its line stands.
    pub phase: Phase,
    /// The store knows it, or was told to, in this hub epoch.
    pub known: bool,
    /// Rows may be in its mailbox. False only if this hub read to the end, all was settled, nothing appended.
    pub rows_left: bool,
    /// The copy of `accepted` in `line` (none: empty) is what the store has.
    pub marks_known: bool,
    /// It is in the hub's list of players whose first read waits for its turn.
    pub read_waits: bool,
    /// It is in the hub's list of players of whom only the record is left.
    pub idle: bool,
    /// A node lost it to another, and may not know.
    pub replaced: bool,
}

impl Player {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            login: 0,
            binding: 0,
            next_number: 1,
            host: NONE,
            host_at: 0,
            line: None,
            groups: Memberships::default(),
            phase: Phase::Offline,
            known: false,
            rows_left: true,
            marks_known: false,
            read_waits: false,
            idle: false,
            replaced: false,
        }
    }

    /// Its line, made if there is none.
    pub fn line(&mut self) -> &mut Line {
        self.line.get_or_insert_default()
    }
}

/// Groups of a player, in order. Most players are in none, which costs a pointer.
#[derive(Debug, Default)]
pub struct Memberships(Option<Box<GroupList>>);

#[derive(Debug, Default)]
struct GroupList(Vec<u32>);

impl Memberships {
    /// Them.
    pub fn as_slice(&self) -> &[u32] {
        self.0.as_ref().map_or(&[], |list| &list.0)
    }

    /// One more.
    pub fn push(&mut self, group: u32) {
        self.0.get_or_insert_default().0.push(group);
    }

    /// One less.
    pub fn remove(&mut self, group: u32) {
        if let Some(list) = &mut self.0 {
            list.0.retain(|other| *other != group);
            if list.0.is_empty() {
                self.0 = None;
            }
        }
    }
}

/// All players. The two indexes hold places only: names and bindings are compared in the records.
#[derive(Debug)]
pub struct Directory {
    slots: Vec<Option<Player>>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    by_binding: HashTable<u32>,
    seed: u64,
}

impl Directory {
    /// None yet.
    pub fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_name: HashTable::new(),
            by_binding: HashTable::new(),
            seed,
        }
    }

    fn hash(seed: u64, name: &str) -> u64 {
        let mut hasher = FxHasher::with_seed(seed as usize);
        hasher.write(name.as_bytes());
        hasher.finish()
    }

    fn hash_binding(binding: u32) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write_u32(binding);
        hasher.finish()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The player of that name.
    pub fn find(&self, name: &str) -> Option<u32> {
        let slots = &self.slots;
        self.by_name
            .find(Self::hash(self.seed, name), |at| {
                slots[*at as usize]
                    .as_ref()
                    .is_some_and(|p| &*p.name == name)
            })
            .copied()
    }

    /// The player of that name, added if there is none and room.
    pub fn intern(&mut self, name: &str, limit: usize) -> Option<u32> {
        if let Some(at) = self.find(name) {
            return Some(at);
        }
        if self.len() >= limit {
            return None;
        }
        let player = Some(Player::new(name.into()));
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = player;
                at
            }
            None => {
                self.slots.push(player);
                (self.slots.len() - 1) as u32
            }
        };
        let (slots, seed) = (&self.slots, self.seed);
        self.by_name
            .insert_unique(Self::hash(seed, name), at, |at| {
                slots[*at as usize]
                    .as_ref()
                    .map_or(0, |player| Self::hash(seed, &player.name))
            });
        Some(at)
    }

    /// Forgets a player of whom there is nothing to know.
    pub fn remove(&mut self, at: u32) {
        let Some(player) = self.slots[at as usize].take() else {
            return;
        };
        let hash = Self::hash(self.seed, &player.name);
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == at) {
            entry.remove();
        }
        self.unindex(at, player.binding);
        self.free.push(at);
    }

    /// The player at an index that is in use.
    pub fn get(&self, at: u32) -> &Player {
        self.slots[at as usize]
            .as_ref()
            .expect("an index of a player is kept only while it is there")
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, at: u32) -> &mut Player {
        self.slots[at as usize]
            .as_mut()
            .expect("an index of a player is kept only while it is there")
    }

    /// The player who has this binding now.
    pub fn bound(&self, binding: u32) -> Option<u32> {
        let slots = &self.slots;
        let has = |at: &u32| {
            slots[*at as usize]
                .as_ref()
                .is_some_and(|player| player.binding == binding)
        };
        self.by_binding
            .find(Self::hash_binding(binding), has)
            .copied()
    }

    /// Gives a player a new binding, or none (0).
    pub fn rebind(&mut self, at: u32, binding: u32) {
        let player = self.get_mut(at);
        let old = std::mem::replace(&mut player.binding, binding);
        player.next_number = 1;
        self.unindex(at, old);
        if binding != 0 {
            let slots = &self.slots;
            let rehash = |at: &u32| {
                slots[*at as usize]
                    .as_ref()
                    .map_or(0, |player| Self::hash_binding(player.binding))
            };
            self.by_binding
                .insert_unique(Self::hash_binding(binding), at, rehash);
        }
    }

    fn unindex(&mut self, at: u32, binding: u32) {
        let found = self
            .by_binding
            .find_entry(Self::hash_binding(binding), |other| *other == at);
        if let (true, Ok(entry)) = (binding != 0, found) {
            entry.remove();
        }
    }

    /// One above the highest index.
    pub fn end(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The player at any index, if it is in use.
    pub fn at(&self, at: u32) -> Option<&Player> {
        self.slots.get(at as usize)?.as_ref()
    }
}

/// How a player is in a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Membership {
    /// Until its login ends.
    pub plain: bool,
    /// Kept in the store.
    pub durable: bool,
}

/// All groups.
#[derive(Debug, Default)]
pub struct Groups {
    /// By index; an empty one has no name in `by_name`.
    groups: Vec<Group>,
    by_name: BTreeMap<Arc<str>, u32>,
    free: BTreeSet<u32>,
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    members: BTreeMap<u32, Membership>,
    /// The same without how; made by the first send, until they change.
    listed: Option<Arc<[u32]>>,
}

impl Groups {
    /// How many.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The group of that name, if it has members.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The members in order.
    pub fn members(&mut self, group: u32) -> Arc<[u32]> {
        let Group {
            members, listed, ..
        } = &mut self.groups[group as usize];
        let listed = listed.get_or_insert_with(|| members.keys().copied().collect());
        Arc::clone(listed)
    }

    /// The group of that name, made if there is none and room.
    pub fn intern(&mut self, name: &str, limit: usize) -> Option<u32> {
        if let Some(group) = self.find(name) {
            return Some(group);
        }
        if self.len() >= limit {
            return None;
        }
        let name: Arc<str> = name.into();
        let group = Group {
            name: name.clone(),
            members: BTreeMap::new(),
            listed: None,
        };
        let at = match self.free.pop_first() {
            Some(at) => {
                self.groups[at as usize] = group;
                at
            }
            None => {
                self.groups.push(group);
                (self.groups.len() - 1) as u32
            }
        };
        self.by_name.insert(name, at);
        Some(at)
    }

    /// How a player is in a group.
    pub fn membership(&self, group: u32, player: u32) -> Membership {
        self.groups[group as usize]
            .members
            .get(&player)
            .copied()
            .unwrap_or_default()
    }

    /// Sets how a player is in a group; a group without members ends.
    pub fn set(&mut self, group: u32, player: u32, membership: Membership) {
        let Group {
            members, listed, ..
        } = &mut self.groups[group as usize];
        *listed = None;
        if membership == Membership::default() {
            members.remove(&player);
        } else {
            members.insert(player, membership);
        }
        if members.is_empty() {
            let name = self.groups[group as usize].name.clone();
            self.by_name.remove(&name);
            self.free.insert(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again_and_slots_are_used_again() {
        let mut players = Directory::new(7);
        let all: Vec<u32> = (0..1_000)
            .map(|n| players.intern(&format!("p{n}"), 1_000).unwrap())
            .collect();
        assert_eq!(players.intern("one more", 1_000), None);
        assert!(
            all.iter()
                .enumerate()
                .all(|(n, at)| players.find(&format!("p{n}")) == Some(*at))
        );
        players.remove(all[3]);
        assert_eq!((players.find("p3"), players.len()), (None, 999));
        assert_eq!(players.intern("another", 1_000), Some(all[3]));
        assert_eq!(players.find("p4"), Some(all[4]));
    }

    #[test]
    fn a_new_binding_ends_the_old_one() {
        let mut players = Directory::new(0);
        let at = players.intern("p", 10).unwrap();
        players.rebind(at, 5);
        players.get_mut(at).next_number = 9;
        players.rebind(at, 6);
        assert_eq!(
            (
                players.bound(5),
                players.bound(6),
                players.get(at).next_number
            ),
            (None, Some(at), 1)
        );
    }

    #[test]
    fn a_group_ends_with_its_last_member() {
        let mut groups = Groups::default();
        let team = groups.intern("team", 1).unwrap();
        assert_eq!(groups.intern("other", 1), None);
        groups.set(
            team,
            3,
            Membership {
                plain: true,
                durable: false,
            },
        );
        assert_eq!(*groups.members(team), [3]);
        groups.set(team, 3, Membership::default());
        assert_eq!((groups.find("team"), groups.len()), (None, 0));
        assert_eq!(groups.intern("other", 1), Some(team));
    }

    #[test]
    fn a_player_is_small() {
        assert!(
            size_of::<Option<Player>>() <= 64,
            "{}",
            size_of::<Option<Player>>()
        );
    }
}
