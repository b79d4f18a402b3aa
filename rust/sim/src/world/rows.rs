//! What leaves a mailbox: each row that nobody has handled is past its deadline [34].

use super::{WALL_MS, World};
use crate::checker::Gone;
use std::collections::BTreeMap;
use zmqgame_core::bus::message::MessageId;
use zmqgame_core::bus::store::{Row, StoreBatch, StoreDone, StoreOp};

/// By player and message: the deadline.
type Held = BTreeMap<(String, MessageId), u64>;

impl World {
    /// The store commits a batch; what it deletes is checked.
    pub(super) fn commit(&mut self, batch: &StoreBatch) -> Vec<StoreDone> {
        let deletes = |op: &StoreOp| {
            // A logout takes what its cursor covers, rows that were passed over before included.
            let logout = matches!(op, StoreOp::Logout { .. });
            logout || matches!(op, StoreOp::Settle { .. } | StoreOp::Expire { .. })
        };
        let watched = self.knobs.keeps_short() && batch.ops.iter().any(deletes);
        if !watched {
            return self.store.commit(batch);
        }
        let before = self.held();
        let done = self.store.commit(batch);
        let after = self.held();
        let gone = before.iter().filter(|(key, _)| !after.contains_key(key));
        let (unix_ms, off_ms) = (WALL_MS + self.now_ms, self.knobs.wall_off_ms);
        for ((player, id), deadline_ms) in gone {
            let gone = Gone {
                at_ms: self.now_ms,
                id: *id,
                deadline_ms: *deadline_ms,
                keep_ms: self.knobs.keep_ms,
            };
            self.checker.deleted(unix_ms, off_ms, player, gone);
        }
        done
    }

    /// The hub takes an answer: late rows are passed over, and what comes live goes past them. They stay until they are
    /// settled, so if the clock is set back meanwhile they are shown after all.
    pub(super) fn note_passed_over(&mut self, done: &[StoreDone]) {
        if self.knobs.wall_off_ms == 0 {
            return; // What is late stays late.
        }
        let unix_ms = self.wall_ms + self.now_ms;
        for done in done {
            if let StoreDone::Rows { rows, .. } = done {
                let late = |row: &&Row| (1..unix_ms).contains(&row.deadline_ms);
                for row in rows.iter().filter(late) {
                    self.loose.may_be_late(row.id);
                }
            }
        }
    }

    /// All that waits, by the ids of its senders.
    fn held(&self) -> Held {
        let mut held = Held::new();
        for (player, mailbox) in &self.store.mailboxes {
            for row in &mailbox.rows {
                let id = self.checker.of_row(row.id, &row.payload);
                held.insert((player.to_string(), id), row.deadline_ms);
            }
        }
        for later in self.store.deferred.values() {
            held.insert((later.player.to_string(), later.id), later.deadline_ms);
        }
        held
    }
}
