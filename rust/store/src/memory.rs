//! What is remembered of mailboxes: this process alone changes them.

use std::collections::HashMap;
use std::sync::Arc;

/// Which marks: those of rows, or those of the deferred list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// `accepted`.
    Rows,
    /// `deferred_marks`.
    Deferred,
}

/// The last id of a sender, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Cached {
    /// Epoch and seq; none: the table has no mark.
    pub mark: Option<(u64, u64)>,
    /// It is not in the table yet.
    pub dirty: bool,
}

/// A mailbox that was looked at.
#[derive(Debug, Default)]
pub struct Player {
    /// A login of it was committed.
    pub known: bool,
    /// Messages and bytes that it holds.
    pub used: Option<(u64, u64)>,
    /// In order, by list and sender: a mailbox has few.
    marks: Vec<((List, u64), Cached)>,
}

/// A mark that is to be written: list, player, sender, epoch and seq.
pub type Dirty = (List, Arc<str>, u64, (u64, u64));

impl Player {
    /// The mark of a sender, if it was looked up.
    pub fn mark(&self, list: List, sender: u64) -> Option<Cached> {
        let at = self
            .marks
            .binary_search_by_key(&(list, sender), |&(key, _)| key);
        at.ok().map(|at| self.marks[at].1)
    }

    /// Remembers it; true if it is a new one.
    pub fn set_mark(&mut self, list: List, sender: u64, cached: Cached) -> bool {
        match self
            .marks
            .binary_search_by_key(&(list, sender), |&(key, _)| key)
        {
            Ok(at) => {
                self.marks[at].1 = cached;
                false
            }
            Err(at) => {
                self.marks.insert(at, ((list, sender), cached));
                true
            }
        }
    }

    fn collect(&mut self, name: &Arc<str>, into: &mut Vec<Dirty>) {
        for ((list, sender), cached) in &mut self.marks {
            if let (true, Some(mark)) = (cached.dirty, cached.mark) {
                into.push((*list, name.clone(), *sender, mark));
                cached.dirty = false;
            }
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Memory {
    /// By name.
    pub players: HashMap<Arc<str>, Player>,
    /// How many marks are held.
    pub marks: usize,
}

impl Memory {
    /// Marks that are not in the table, in the table's order; they count as written then.
    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        let mut dirty = Vec::new();
        for (name, player) in &mut self.players {
            player.collect(name, &mut dirty);
        }
        dirty.sort_unstable();
        dirty
    }

    /// Those of one player, of whom none is remembered afterwards.
    pub fn take_marks(&mut self, name: &Arc<str>) -> Vec<Dirty> {
        let mut dirty = Vec::new();
        if let Some(player) = self.players.get_mut(name) {
            player.collect(name, &mut dirty);
            self.marks -= player.marks.len();
            player.marks = Vec::new();
        }
        dirty
    }

    /// Counts off what a mailbox no longer holds.
    pub fn free(&mut self, name: &str, messages: u64, bytes: u64) {
        if let Some(used) = self
            .players
            .get_mut(name)
            .and_then(|player| player.used.as_mut())
        {
            *used = (
                used.0.saturating_sub(messages),
                used.1.saturating_sub(bytes),
            );
        }
    }
}
