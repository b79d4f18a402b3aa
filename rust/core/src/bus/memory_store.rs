//! A mailbox store in memory: the contract of [`store`](crate::bus::store) in its shortest form.
//!
//! For tests and the simulation. A clone is a crash image: what was committed at that point.

use crate::bus::broken::{Broken, Rule};
use crate::bus::message::Mark;
use crate::bus::store::{RosterEntry, Row, StoreBatch, StoreDone, StoreOp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One player's mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryMailbox {
    /// Not settled, oldest first.
    pub rows: Vec<Row>,
    /// By sender: the last accepted epoch and seq.
    pub accepted: BTreeMap<u64, (u64, u64)>,
}

/// All mailboxes, and what else a store keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStore {
    /// By player; none without rows and marks.
    pub mailboxes: BTreeMap<Arc<str>, MemoryMailbox>,
    /// Players of whom a login was committed.
    pub known: BTreeSet<Arc<str>>,
    /// Group and player.
    pub groups: BTreeSet<(Arc<str>, Arc<str>)>,
    /// By node key.
    pub roster: BTreeMap<u64, RosterEntry>,
    /// The highest epoch of a hub that opened it.
    pub hub_epoch: u32,
    /// The last row number given; never given again.
    pub last_row: u64,
    /// Bytes of payload that it takes; 0: any.
    pub limit_bytes: usize,
    pub(crate) broken: Broken,
}

impl MemoryStore {
    /// Takes a rule away.
    #[cfg(feature = "broken")]
    pub const fn break_rule(&mut self, broken: Broken) {
        self.broken = broken;
    }

    /// Runs a batch: all of it or, for a hub that is not the highest, nothing but the answer that says so.
    pub fn commit(&mut self, batch: &StoreBatch) -> Vec<StoreDone> {
        batch.ops.iter().map(|op| self.run(op)).collect()
    }

    /// Whether no row is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mailboxes
            .values()
            .all(|mailbox| mailbox.rows.is_empty())
    }

    /// The rows of a player.
    #[must_use]
    pub fn rows(&self, player: &str) -> &[Row] {
        self.mailboxes
            .get(player)
            .map_or(&[], |mailbox| &mailbox.rows)
    }

    fn mailbox(&mut self, player: &Arc<str>) -> &mut MemoryMailbox {
        self.mailboxes.entry(player.clone()).or_default()
    }

    fn run(&mut self, op: &StoreOp) -> StoreDone {
        match op {
            StoreOp::Open { hub_epoch, .. } => return self.open(*hub_epoch),
            StoreOp::Append { player, .. } if !self.known.contains(player) => {
                return StoreDone::UnknownPlayer;
            }
            StoreOp::Append { .. } => return self.append(op),
            StoreOp::Read {
                player,
                after_row,
                limit,
            } => return self.read(player, *after_row, *limit as usize),
            StoreOp::Accepted { player } => {
                let marks = self.mailbox(player).accepted.iter();
                let marks = marks
                    .map(|(key, (epoch, seq))| Mark {
                        node_key: *key,
                        epoch: *epoch,
                        seq: *seq,
                    })
                    .collect();
                return StoreDone::Marks { marks };
            }
            StoreOp::Settle { player, up_to } => {
                self.mailbox(player).rows.retain(|row| row.row > *up_to)
            }
            StoreOp::Logout { player, cursor } => self.logout(player, cursor),
            StoreOp::Trim {
                player,
                sender,
                epoch,
                seq,
            } => {
                self.mailbox(player)
                    .accepted
                    .retain(|key, mark| key != sender || *mark > (*epoch, *seq));
            }
            StoreOp::Know { player } => {
                self.known.insert(player.clone());
            }
            StoreOp::Join { player, .. } if !self.known.contains(player) => {
                return StoreDone::UnknownPlayer;
            }
            StoreOp::Join { group, player } => {
                self.groups.insert((group.clone(), player.clone()));
            }
            StoreOp::Leave { group, player } => {
                self.groups.remove(&(group.clone(), player.clone()));
            }
            StoreOp::Roster { entry } => {
                self.roster.insert(entry.node_key, entry.clone());
            }
        }
        StoreDone::Done
    }

    fn open(&mut self, hub_epoch: u32) -> StoreDone {
        self.hub_epoch = self.hub_epoch.max(hub_epoch);
        StoreDone::Opened {
            hub_epoch_highest: self.hub_epoch,
            roster: self.roster.values().cloned().collect(),
            groups: self.groups.iter().cloned().collect(),
        }
    }

    fn append(&mut self, op: &StoreOp) -> StoreDone {
        let StoreOp::Append {
            player,
            id,
            deadline_ms,
            content,
            payload,
        } = op
        else {
            return StoreDone::Done;
        };
        let mark = (id.epoch, id.seq);
        let once = !self.broken.lacks(Rule::AppendOnce);
        if once
            && self
                .mailbox(player)
                .accepted
                .get(&id.node_key)
                .is_some_and(|accepted| *accepted >= mark)
        {
            return StoreDone::Appended; // [20]
        }
        let used: usize = self
            .mailboxes
            .values()
            .flat_map(|mailbox| &mailbox.rows)
            .map(|row| row.payload.len())
            .sum();
        if self.limit_bytes != 0 && used + payload.len() > self.limit_bytes {
            return StoreDone::Full;
        }
        self.last_row += 1;
        if self.broken.lacks(Rule::RowsGrow) {
            self.last_row = self.rows(player).last().map_or(1, |row| row.row + 1);
        }
        let (row, payload) = (self.last_row, payload.clone());
        let mailbox = self.mailbox(player);
        mailbox.rows.push(Row {
            row,
            id: *id,
            deadline_ms: *deadline_ms,
            content: *content,
            payload,
        });
        let accepted = mailbox.accepted.entry(id.node_key).or_default();
        *accepted = (*accepted).max(mark);
        StoreDone::Appended
    }

    fn read(&mut self, player: &Arc<str>, after_row: u64, limit: usize) -> StoreDone {
        let mut rows: Vec<Row> = self
            .rows(player)
            .iter()
            .filter(|row| row.row > after_row)
            .cloned()
            .collect();
        let end = rows.len() <= limit;
        rows.truncate(limit);
        if self.broken.lacks(Rule::RowsStay) {
            let last = rows.last().map_or(0, |row| row.row);
            self.mailbox(player).rows.retain(|row| row.row > last);
        }
        StoreDone::Rows { rows, end }
    }

    fn logout(&mut self, player: &Arc<str>, cursor: &[Mark]) {
        let stay = self.broken.lacks(Rule::LogoutRows);
        let mailbox = self.mailbox(player);
        for mark in cursor {
            let accepted = mailbox.accepted.entry(mark.node_key).or_default();
            *accepted = (*accepted).max((mark.epoch, mark.seq));
            mailbox
                .rows
                .retain(|row| stay || row.id.node_key != mark.node_key || row.id > *mark);
        }
    }
}
