//! What is found when the faults are over: promises B and G.

use super::Checker;
use zmqgame_core::bus::message::{MessageId, Outcome};

impl Checker {
    /// The faults are over, every player is online and all is quiet: promises B and G.
    pub fn end(&mut self, at_ms: u64, waiting: &[(String, MessageId)]) {
        for (player, id) in waiting {
            self.fail(
                at_ms,
                "G",
                format!("the mailbox of {player} still holds {id:?}"),
            );
        }
        let mut found = Vec::new();
        let mut classes = self.classes;
        for ((id, player), outcome) in &self.sent {
            let handled = self.handled.contains(&(*id, player.clone()));
            let dead = self.dead_epochs.contains(&(id.node_key, id.epoch));
            match outcome {
                Some(Outcome::Refused) if handled => {
                    found.push(("A", format!("{id:?} to {player}: refused, yet handled")));
                }
                // The row of a late joiner goes out, and its client's cursor is past it already.
                Some(Outcome::Stored)
                    if !handled && self.joined_late.contains(&(*id, player.clone())) =>
                {
                    classes.passed += 1;
                }
                // `stored` promises until the deadline [34].
                Some(Outcome::Stored)
                    if !handled
                        && self.deadlines.contains_key(id)
                        && !self.is_jumped(player, *id) =>
                {
                    classes.answered += 1;
                }
                // Nor longer than mailboxes keep.
                Some(Outcome::Stored) if !handled && self.gone.contains(&(*id, player.clone())) => {
                    classes.answered += 1;
                }
                Some(Outcome::Delivered | Outcome::Stored) if !handled => {
                    found.push((
                        "B",
                        format!("{id:?} to {player}: {outcome:?}, never handled"),
                    ));
                }
                Some(Outcome::Delivered | Outcome::Stored) => classes.acked += 1,
                Some(Outcome::Passed) if handled => classes.acked += 1,
                Some(Outcome::Passed) => classes.passed += 1,
                None if !dead => {
                    classes.lost += 1;
                    found.push(("G", format!("{id:?} to {player}: no receipt")));
                }
                None => classes.unknown += 1,
                _ => classes.answered += 1,
            }
        }
        self.classes = classes;
        for (id, reported) in &self.groups {
            if !reported && !self.dead_epochs.contains(&(id.node_key, id.epoch)) {
                found.push(("G", format!("{id:?} to a group: no report")));
            }
        }
        for (promise, text) in found {
            self.fail(at_ms, promise, text);
        }
    }
}
