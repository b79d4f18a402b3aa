//! What became of a group send, recipient by recipient [40].

use crate::bus::message::{GroupReport, Outcome, ReportEntry};
use crate::bus::node::limits::MAX_REPORT_PLAYERS;
use crate::bus::wire::{Item, List, Writer};
use std::collections::BTreeMap;
use std::fmt;

/// The union over its resends, the strongest for each recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Recipients by outcome: index is the outcome less 1.
    pub counts: [u32; 8],
    /// Counted, not named.
    pub omitted: u32,
    /// Named ones.
    pub players: Named,
}

/// Recipients with their outcomes, as the hub wrote them: most owners look at the counts only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Named {
    bytes: Vec<u8>,
    count: usize,
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list().fmt(f)
    }
}

/// Which of two outcomes for one recipient says more.
fn strength(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Delivered => 4,
        Outcome::Stored => 3,
        Outcome::Sent | Outcome::Passed => 2,
        Outcome::Expired | Outcome::Refused | Outcome::Dropped => 1,
        Outcome::Busy => 0,
    }
}

impl Named {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether none is named.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn list(&self) -> List<'_, ReportEntry<'_>> {
        List::Encoded {
            count: self.count,
            bytes: &self.bytes,
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = ReportEntry<'_>> {
        self.list().iter()
    }

    fn push(&mut self, entry: ReportEntry<'_>) {
        let written = entry.write(&mut Writer {
            out: &mut self.bytes,
        });
        debug_assert!(written.is_ok(), "it was read, so it can be written");
        self.count += 1;
    }
}

impl<'a> From<List<'a, ReportEntry<'a>>> for Named {
    fn from(entries: List<'a, ReportEntry<'a>>) -> Self {
        if let List::Encoded { count, bytes } = entries {
            let bytes = bytes.to_vec();
            return Self { bytes, count };
        }
        let mut all = Self::default();
        entries.iter().for_each(|entry| all.push(entry));
        all
    }
}

impl Report {
    /// Takes a part in.
    pub fn add(&mut self, part: &GroupReport<'_>) {
        self.counts = part.counts;
        self.omitted = self.omitted.max(part.omitted);
        if self.players.is_empty() {
            self.players = part.entries.into();
        } else {
            self.merge(part.entries);
        }
    }

    fn merge(&mut self, entries: List<'_, ReportEntry<'_>>) {
        let before = std::mem::take(&mut self.players);
        let mut all: BTreeMap<&str, ReportEntry<'_>> =
            before.iter().map(|entry| (entry.player, entry)).collect();
        for entry in entries {
            let room = all.len() < MAX_REPORT_PLAYERS;
            match all.get(entry.player) {
                Some(known) if strength(known.outcome) >= strength(entry.outcome) => {
                    let (weaker, stronger) =
                        (entry.outcome as usize - 1, known.outcome as usize - 1);
                    self.counts[weaker] = self.counts[weaker].saturating_sub(1);
                    self.counts[stronger] += 1;
                }
                None if !room => self.omitted += 1,
                _ => {
                    all.insert(entry.player, entry);
                }
            }
        }
        all.into_values().for_each(|entry| self.players.push(entry));
    }
}
