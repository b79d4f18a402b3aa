//! Messages of `latest` and `droppable`: what BUS.md rule 33 promises of them, checked.

use std::collections::{BTreeMap, BTreeSet};
use zmqgame_core::bus::message::{MessageId, Outcome};

/// How a message of these policies is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Of a `latest`; empty: it is a `droppable`.
    pub key: &'a str,
    /// No receipt is wanted.
    pub quiet: bool,
    /// Unix ms; 0 none.
    pub deadline_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Receipt(Outcome),
    /// A report's counts: sent and dropped.
    Counts(u32, u32),
    /// The link was lost behind it.
    Unknown,
}

#[derive(Debug)]
struct One {
    /// To whom; none: a group or everyone.
    player: Option<String>,
    latest: bool,
    quiet: bool,
    /// Counts what the hub reads; 0: it did not.
    read: u64,
    handled: BTreeSet<String>,
    end: Option<End>,
}

/// All that were sent, and who handled them.
#[derive(Debug, Default)]
pub struct Loose {
    all: BTreeMap<MessageId, One>,
    /// By player and sender: the last one handled.
    last: BTreeMap<(String, u64), MessageId>,
    /// By player, sender and epoch: must-deliver messages that the hub read before may not be handled for the first time
    /// any more.
    passed: BTreeMap<(String, u64, u64), u64>,
    /// Must-deliver messages that the hub has read: on which connection, and when first.
    must: BTreeMap<MessageId, (u64, u64)>,
    reads: u64,
    /// Must-deliver messages that may be overtaken: they were `busy`, are deferred, go to a group, or were passed over by
    /// a clock that is set back later.
    late: BTreeSet<MessageId>,
    found: Vec<(&'static str, String)>,
}

impl Loose {
    fn fail(&mut self, promise: &'static str, text: String) {
        self.found.push((promise, text));
    }

    /// What was found since the last time: promise and text.
    pub fn take_found(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.found)
    }

    /// A sender took one.
    pub fn sent(&mut self, id: MessageId, player: Option<&str>, wish: &Wish<'_>) {
        let one = One {
            player: player.map(str::to_owned),
            latest: !wish.key.is_empty(),
            quiet: wish.quiet,
            read: 0,
            handled: BTreeSet::new(),
            end: None,
        };
        self.all.insert(id, one);
    }

    /// The hub reads a send of any policy: behind what it has read before.
    pub fn read(&mut self, conn: u64, id: MessageId) {
        self.reads += 1;
        if let Some(one) = self.all.get_mut(&id) {
            one.read = self.reads;
            return;
        }
        let first = self.must.entry(id).or_insert((conn, self.reads));
        if first.0 != conn {
            *first = (conn, self.reads); // What was read before was lost with its connection.
        }
    }

    /// A must-deliver message may be overtaken: it did not enter its line when it came.
    pub fn may_be_late(&mut self, id: MessageId) {
        self.late.insert(id);
    }

    /// A client handled one: once, in order, and not one that its sender was told is dropped.
    pub fn handled(&mut self, player: &str, id: MessageId) {
        let Some(one) = self.all.get_mut(&id) else {
            return self.fail("never sent", format!("{player} handled {id:?}"));
        };
        let stray = one.player.as_ref().is_some_and(|to| to != player);
        let again = !one.handled.insert(player.to_owned());
        let ended = matches!(
            one.end,
            Some(End::Receipt(Outcome::Dropped | Outcome::Expired))
        );
        let read = one.read;
        let last = self.last.insert((player.to_owned(), id.node_key), id);
        let passed = (player.to_owned(), id.node_key, id.epoch);
        let passed = self.passed.entry(passed).or_default();
        *passed = read.max(*passed);
        if stray {
            self.fail("never sent", format!("{player} handled {id:?}"));
        }
        if again {
            self.fail("C", format!("{player} handled {id:?} twice"));
        } else if last.is_some_and(|last| last > id) {
            self.fail("D", format!("{player} handled {id:?} after {last:?}"));
        }
        if ended {
            self.fail("A", format!("{player} handled {id:?}, told as dropped"));
        }
    }

    /// A client handled a must-deliver message: nothing of its sender that came later may have overtaken it.
    pub fn handled_must(&mut self, player: &str, id: MessageId) {
        if self.passed.is_empty() {
            return;
        }
        let passed = self.passed.get(&(player.to_owned(), id.node_key, id.epoch));
        let read = self.must.get(&id).map_or(u64::MAX, |read| read.1);
        if passed.is_some_and(|passed| read < *passed) && !self.late.contains(&id) {
            self.fail("D", format!("{player} handled {id:?}, overtaken"));
        }
    }

    fn ended(&mut self, id: MessageId, end: End) {
        let Some(one) = self.all.get_mut(&id) else {
            return self.fail("A", format!("{end:?} for {id:?}, never sent"));
        };
        let wrong = match end {
            End::Receipt(Outcome::Dropped | Outcome::Expired) => !one.handled.is_empty(),
            End::Receipt(outcome) => outcome != Outcome::Sent,
            End::Counts(..) | End::Unknown => false,
        };
        let (quiet, again) = (one.quiet, one.end.replace(end).is_some());
        if quiet || again || wrong {
            self.fail("A", format!("{end:?} for {id:?} is not true"));
        }
    }

    /// A sender got a receipt.
    pub fn receipt(&mut self, id: MessageId, outcome: Outcome) {
        self.ended(id, End::Receipt(outcome));
    }

    /// A sender got a report, which has only counts.
    pub fn report(&mut self, id: MessageId, counts: [u32; 8]) {
        let count = |outcome: Outcome| counts[outcome as usize - 1];
        let end = End::Counts(count(Outcome::Sent), count(Outcome::Dropped));
        self.ended(id, end);
    }

    /// A sender will get no receipt: its link was lost.
    pub fn unknown(&mut self, id: MessageId) {
        self.ended(id, End::Unknown);
    }

    /// What a sender was told of one.
    #[must_use]
    pub fn outcome(&self, id: MessageId) -> Option<Outcome> {
        match self.all.get(&id)?.end? {
            End::Receipt(outcome) => Some(outcome),
            End::Counts(..) | End::Unknown => None,
        }
    }

    /// All is quiet. `living`: the processes, by node key and epoch.
    pub fn end(&mut self, living: &[(u64, u64)]) {
        let mut found = Vec::new();
        for (id, one) in &self.all {
            let lives = living.contains(&(id.node_key, id.epoch));
            if lives && !one.quiet && one.end.is_none() {
                found.push(("G", format!("{id:?}: no receipt")));
            }
            if let Some(End::Counts(sent, dropped)) = one.end {
                // A `latest` that is kept for later counts as dropped.
                let most = if one.latest { sent + dropped } else { sent };
                if one.handled.len() as u32 > most {
                    found.push(("A", format!("{id:?}: {:?}, yet {:?}", one.end, one.handled)));
                }
            }
        }
        self.found.extend(found);
    }
}
