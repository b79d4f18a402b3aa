//! A mailbox store in memory: the contract of [`store`](crate::bus::store) in its shortest form.
//!
//! For tests and the simulation. A clone is a crash image: what was committed at that point.

use crate::bus::broken::{Broken, Rule};
use crate::bus::message::{Content, Mark, MessageId};
use crate::bus::store::{Moved, RosterEntry, Row, StoreBatch, StoreDone, StoreOp};
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

impl MemoryMailbox {
    fn marks(&self) -> Vec<Mark> {
        let marks = self.accepted.iter();
        marks
            .map(|(key, (epoch, seq))| Mark {
                node_key: *key,
                epoch: *epoch,
                seq: *seq,
            })
            .collect()
    }
}

/// A message that is delivered later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferred {
    /// The mailbox.
    pub player: Arc<str>,
    /// Its id until it is due.
    pub id: MessageId,
    /// Unix ms after which it is not delivered; 0 none.
    pub deadline_ms: u64,
    /// How to read the payload.
    pub content: Content,
    /// The payload.
    pub payload: Arc<[u8]>,
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
    /// Messages that one player's mailbox takes; 0: any.
    pub player_messages: u64,
    /// Bytes of payload that one player's mailbox takes; 0: any.
    pub player_bytes: u64,
    /// By time and order of arrival.
    pub deferred: BTreeMap<(u64, u64), Deferred>,
    /// By player and sender: the last one that was deferred.
    pub deferred_marks: BTreeMap<(Arc<str>, u64), (u64, u64)>,
    /// The last of them that the hub was told.
    pub last_told: Option<(Arc<str>, u64)>,
    /// Deferred messages so far.
    pub last_deferred: u64,
    /// The last seq of the deferred list as a sender.
    pub last_due: u64,
    /// Refused in the batch under way: by list (deferred or not), player and sender, and why.
    pub(crate) refused: BTreeMap<(bool, Arc<str>, u64), StoreDone>,
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
        self.refused.clear();
        let done = batch.ops.iter().map(|op| self.run(op)).collect();
        self.refused.clear();
        done
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
            StoreOp::Append {
                player,
                id,
                payload,
                first,
                ..
            }
            | StoreOp::Defer {
                player,
                id,
                payload,
                first,
                ..
            } => return self.add(op, player, *id, payload.len(), *first),
            StoreOp::Due { unix_ms, limit } => return self.due(*unix_ms, *limit as usize),
            StoreOp::Expire { unix_ms, limit } => return self.expire(*unix_ms, *limit as usize),
            StoreOp::Admin { .. } => {
                return StoreDone::Text { json: self.list() };
            }
            StoreOp::Read {
                player,
                after_row,
                limit,
            } => return self.read(player, *after_row, *limit as usize),
            StoreOp::Accepted { player } => {
                return StoreDone::Marks {
                    marks: self.mailbox(player).marks(),
                };
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
            } => self.trim(player, *sender, (*epoch, *seq)),
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

    /// Appends or defers, unless a mark or a limit is against it.
    fn add(
        &mut self,
        op: &StoreOp,
        player: &Arc<str>,
        id: MessageId,
        bytes: usize,
        first: bool,
    ) -> StoreDone {
        let deferred = matches!(op, StoreOp::Defer { .. });
        match self.takes(player, id, bytes, first, deferred) {
            Ok(true) if deferred => self.defer(op),
            Ok(true) => self.append(op),
            Ok(false) if deferred || self.has_row(player, id) => StoreDone::Appended,
            Ok(false) => StoreDone::Passed,
            Err(why) => {
                let of_list = (deferred, player.clone(), id.node_key);
                self.refused.insert(of_list, why.clone());
                why
            }
        }
    }

    fn trim(&mut self, player: &Arc<str>, sender: u64, up_to: (u64, u64)) {
        self.mailbox(player)
            .accepted
            .retain(|key, mark| *key != sender || *mark > up_to);
        let pair = (player.clone(), sender);
        if self.deferred_marks.get(&pair) <= Some(&up_to) {
            self.deferred_marks.remove(&pair);
        }
    }

    fn open(&mut self, hub_epoch: u32) -> StoreDone {
        self.hub_epoch = self.hub_epoch.max(hub_epoch);
        StoreDone::Opened {
            hub_epoch_highest: self.hub_epoch,
            roster: self.roster.values().cloned().collect(),
            groups: self.groups.iter().cloned().collect(),
            next_due_ms: self.next_due(),
        }
    }

    fn next_due(&self) -> u64 {
        self.deferred.first_key_value().map_or(0, |(key, _)| key.0)
    }

    /// What a mailbox holds: messages and bytes, deferred ones included.
    #[must_use]
    pub fn used(&self, player: &str) -> (u64, u64) {
        let rows = self.rows(player).iter().map(|row| row.payload.len());
        let deferred = self.deferred.values();
        let deferred = deferred
            .filter(|message| &*message.player == player)
            .map(|message| message.payload.len());
        let all = rows.chain(deferred);
        all.fold((0, 0), |sum, bytes| (sum.0 + 1, sum.1 + bytes as u64))
    }

    fn has_row(&self, player: &str, id: MessageId) -> bool {
        self.rows(player).iter().any(|row| row.id == id)
    }

    /// Whether a message is new and taken; false: it is a repeat [20].
    fn takes(
        &mut self,
        player: &Arc<str>,
        id: MessageId,
        bytes: usize,
        first: bool,
        deferred: bool,
    ) -> Result<bool, StoreDone> {
        if !self.known.contains(player) {
            return Err(StoreDone::UnknownPlayer);
        }
        let mark = if deferred {
            self.deferred_marks.get(&(player.clone(), id.node_key))
        } else {
            let mailbox = self.mailboxes.get(player);
            mailbox.and_then(|mailbox| mailbox.accepted.get(&id.node_key))
        };
        if mark >= Some(&(id.epoch, id.seq)) && !self.broken.lacks(Rule::AppendOnce) {
            return Ok(false); // Also behind a refused one: it came before.
        }
        if let Some(why) = self.refused.get(&(deferred, player.clone(), id.node_key)) {
            return Err(why.clone());
        }
        let (messages, used) = self.used(player);
        let over = |limit: u64, wanted: u64| limit != 0 && wanted > limit;
        let full = over(self.player_messages, messages + 1)
            || over(self.player_bytes, used + bytes as u64);
        if full && (first || self.broken.lacks(Rule::QuotaSparesResends)) {
            return Err(StoreDone::OverQuota {
                messages,
                bytes: used,
            });
        }
        let rows = self.mailboxes.values().flat_map(|mailbox| &mailbox.rows);
        let deferred = self.deferred.values().map(|message| message.payload.len());
        let all: usize = rows.map(|row| row.payload.len()).chain(deferred).sum();
        if first && self.limit_bytes != 0 && all + bytes > self.limit_bytes {
            return Err(StoreDone::Full);
        }
        Ok(true)
    }

    fn defer(&mut self, op: &StoreOp) -> StoreDone {
        if let StoreOp::Defer {
            player,
            id,
            deliver_at_ms,
            deadline_ms,
            content,
            payload,
            ..
        } = op
        {
            self.last_deferred += 1;
            let key = (*deliver_at_ms, self.last_deferred);
            let message = Deferred {
                player: player.clone(),
                id: *id,
                deadline_ms: *deadline_ms,
                content: *content,
                payload: payload.clone(),
            };
            self.deferred.insert(key, message);
            let pair = (player.clone(), id.node_key);
            self.deferred_marks.insert(pair, (id.epoch, id.seq));
        }
        StoreDone::Appended
    }

    fn due(&mut self, unix_ms: u64, limit: usize) -> StoreDone {
        let mut all = Vec::new();
        for _ in 0..limit {
            let Some(first) = self.deferred.first_entry() else {
                break;
            };
            if first.key().0 > unix_ms {
                break;
            }
            let message = first.remove();
            self.last_due += 1;
            self.last_row += 1;
            let moved = Moved {
                player: message.player,
                id: message.id,
                seq: self.last_due,
            };
            let senders = self.broken.lacks(Rule::DueHasOwnId);
            let row = Row {
                row: self.last_row,
                id: if senders { moved.id } else { moved.row_id() },
                deadline_ms: message.deadline_ms,
                content: message.content,
                payload: message.payload,
            };
            self.mailbox(&moved.player).rows.push(row);
            all.push(moved);
        }
        StoreDone::Due {
            moved: all,
            next_ms: self.next_due(),
        }
    }

    fn expire(&mut self, unix_ms: u64, limit: usize) -> StoreDone {
        let mut left = limit;
        let mut stays = |deadline_ms: u64| {
            let gone = left > 0 && deadline_ms != 0 && deadline_ms < unix_ms;
            left -= usize::from(gone);
            !gone
        };
        for mailbox in self.mailboxes.values_mut() {
            mailbox.rows.retain(|row| stays(row.deadline_ms));
        }
        self.deferred
            .retain(|_, message| stays(message.deadline_ms));
        StoreDone::Expired {
            count: (limit - left) as u64,
            marks: self.next_marks(limit),
        }
    }

    /// Marks of the deferred list, from where the last call ended, and round again.
    fn next_marks(&mut self, limit: usize) -> Vec<(Arc<str>, Mark)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = self.last_told.take().map_or(Unbounded, Excluded);
        let next = self.deferred_marks.range((from, Unbounded)).take(limit);
        let told: Vec<_> = next
            .map(|((player, node_key), (epoch, seq))| {
                let (node_key, epoch, seq) = (*node_key, *epoch, *seq);
                (
                    player.clone(),
                    Mark {
                        node_key,
                        epoch,
                        seq,
                    },
                )
            })
            .collect();
        if told.len() == limit {
            self.last_told = told
                .last()
                .map(|(player, mark)| (player.clone(), mark.node_key));
        }
        told
    }

    /// The question `list` of operators, whatever was asked.
    fn list(&self) -> String {
        let players = self.mailboxes.keys().map(|player| {
            let (messages, bytes) = self.used(player);
            format!("{{\"player\":{player:?},\"messages\":{messages},\"bytes\":{bytes}}}")
        });
        format!("[{}]", players.collect::<Vec<_>>().join(","))
    }

    fn append(&mut self, op: &StoreOp) -> StoreDone {
        let StoreOp::Append {
            player,
            id,
            deadline_ms,
            content,
            payload,
            ..
        } = op
        else {
            return StoreDone::Done;
        };
        let mark = (id.epoch, id.seq);
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
