//! The promises of the bus as checks on what happened: one function a promise, each names the message it failed for.

mod end;
mod times;

use crate::classes::Classes;
use std::collections::{BTreeMap, BTreeSet};
pub use times::Gone;
use zmqgame_core::bus::message::{MessageId, Outcome};

/// What a run found to be untrue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Virtual ms.
    pub at_ms: u64,
    /// The promise of BUS.md section 1, or a name.
    pub promise: &'static str,
    /// Which message, which player.
    pub text: String,
}

/// A client session as the checker sees it.
#[derive(Debug, Default, Clone)]
struct Session {
    highest: BTreeMap<u64, MessageId>,
    left: bool,
}

/// Keeps what senders sent and clients handled, and finds what contradicts the promises.
#[derive(Debug, Default)]
pub struct Checker {
    sent: BTreeMap<(MessageId, String), Option<Outcome>>,
    sessions: BTreeMap<String, Vec<Session>>,
    handled: BTreeSet<(MessageId, String)>,
    groups: BTreeMap<MessageId, bool>,
    /// Unix ms after which a message need not be delivered.
    deadlines: BTreeMap<MessageId, u64>,
    /// The hub's wall clock at the virtual time 0, if that is never wrong: what it expires is then known exactly.
    clock: Option<u64>,
    /// Group sends that were stored for who had handled later ones of that sender by then: a mark that the hub can't know.
    joined_late: BTreeSet<(MessageId, String)>,
    /// What the hub has called expired.
    expired: BTreeSet<(MessageId, String)>,
    /// By player and sender: each raise of what it has handled, with its unix ms.
    raised: BTreeMap<(String, u64), Vec<(MessageId, u64)>>,
    bindings: BTreeMap<u64, String>,
    /// Ids under which deferred messages came to whom they were for.
    stray: BTreeSet<(MessageId, String)>,
    /// Deferred messages by the token in their payload, and by the id under which they arrive.
    deferred: BTreeMap<u64, (MessageId, String)>,
    promoted: BTreeMap<MessageId, u64>,
    tokens: BTreeMap<MessageId, u64>,
    /// By token: the id under which it arrived first.
    arrived: BTreeMap<u64, MessageId>,
    /// By token: unix ms before which it may not arrive.
    due: BTreeMap<u64, u64>,
    /// What was in a mailbox until its deadline, or until it was kept for long enough.
    gone: BTreeSet<(MessageId, String)>,
    /// When a message was sent, unix ms, where the hub keeps them for a short time only.
    sent_ms: BTreeMap<MessageId, u64>,
    dead_epochs: BTreeSet<(u64, u64)>,
    logins: BTreeMap<String, u64>,
    hosts: BTreeMap<(String, u64), (usize, u64)>,
    /// What was found so far.
    pub violations: Vec<Violation>,
    /// Messages handled, repeats by new sessions included.
    pub handled_count: u64,
    /// Messages by what became of them; whole after [`Checker::end`].
    pub classes: Classes,
    /// Receipts by outcome, index is the outcome less 1.
    pub receipts: [u64; 8],
}

impl Checker {
    pub(crate) fn fail(&mut self, at_ms: u64, promise: &'static str, text: String) {
        match promise {
            "C" => self.classes.duplicated += 1,
            "D" => self.classes.out_of_order += 1,
            "never sent" => self.classes.never_sent += 1,
            "B" => self.classes.lost += 1,
            _ => {}
        }
        self.violations.push(Violation {
            at_ms,
            promise,
            text,
        });
    }

    /// A sender took a message for one recipient.
    pub fn sent(&mut self, id: MessageId, player: &str) {
        self.sent.entry((id, player.to_owned())).or_insert(None);
    }

    /// A sender took a message for a group: who it goes to is known from the report.
    pub fn sent_to_group(&mut self, id: MessageId) {
        self.groups.insert(id, false);
    }

    /// A group's report is whole.
    pub fn reported(&mut self, id: MessageId) {
        self.groups.insert(id, true);
    }

    /// To whom a message went, as far as is known; a group send that gets a plain receipt has none.
    pub fn recipients(&mut self, id: MessageId) -> Vec<String> {
        if let Some(reported) = self.groups.get_mut(&id) {
            *reported = true;
            return Vec::new();
        }
        self.one_recipient(id)
    }

    /// To whom a message went that went to one; nobody, as far as is known, for a group send without report.
    #[must_use]
    pub fn one_recipient(&self, id: MessageId) -> Vec<String> {
        self.sent
            .range((id, String::new())..)
            .take_while(|((other, _), _)| *other == id)
            .map(|((_, player), _)| player.clone())
            .collect()
    }

    /// A sender was killed: what it has no receipt for may be handled or not.
    pub fn sender_killed(&mut self, node_key: u64, epoch: u64) {
        self.dead_epochs.insert((node_key, epoch));
    }

    /// A hub starts: until the newest host has registered it may bind an older one.
    pub fn hub_begins(&mut self) {
        self.logins.clear();
    }

    /// The hub lets a node host a player: promise E. A login is one node's, and an older one never follows a newer.
    pub fn bound(
        &mut self,
        at_ms: u64,
        player: &str,
        (login, binding): (u64, u64),
        host: (usize, u64),
    ) {
        self.bindings.insert(binding, player.to_owned());
        let highest = self.logins.entry(player.to_owned()).or_insert(login);
        let older = login < *highest;
        *highest = (*highest).max(login);
        let first = *self.hosts.entry((player.to_owned(), login)).or_insert(host);
        if older || first != host {
            let text = format!("login {login} of {player} at {host:?}, it was of {first:?}");
            self.fail(at_ms, "E", text);
        }
    }

    /// A player's client begins a session that remembers nothing.
    pub fn session_begins(&mut self, player: &str) {
        self.sessions
            .entry(player.to_owned())
            .or_default()
            .push(Session::default());
    }

    /// The session's logout was confirmed.
    pub fn session_left(&mut self, player: &str) {
        if let Some(session) = self.sessions.get_mut(player).and_then(|all| all.last_mut()) {
            session.left = true;
        }
    }

    /// The client handled a message: promises C and D.
    pub fn handled(&mut self, at_ms: u64, player: &str, id: MessageId) {
        self.handled_count += 1;
        let original = self
            .promoted
            .get(&id)
            .and_then(|token| self.deferred.get(token));
        if let Some((original, to)) = original.filter(|(_, to)| to == player).cloned() {
            self.handled.insert((original, to.clone()));
            self.stray.insert((id, to));
        }
        let promoted = self.stray.contains(&(id, player.to_owned()));
        if !promoted
            && !self.sent.contains_key(&(id, player.to_owned()))
            && !self.groups.contains_key(&id)
        {
            self.fail(at_ms, "never sent", format!("{player} handled {id:?}"));
        }
        let sessions = self.sessions.entry(player.to_owned()).or_default();
        let Some(last) = sessions.len().checked_sub(1) else {
            return self.fail(at_ms, "C", format!("{player} has no session for {id:?}"));
        };
        // A session is held to what earlier ones handled as far back as each was left with a confirmed logout.
        let mut first = last;
        while first > 0 && sessions[first - 1].left {
            first -= 1;
        }
        let earlier = sessions[first..]
            .iter()
            .filter_map(|session| session.highest.get(&id.node_key))
            .max()
            .copied();
        sessions[last].highest.insert(id.node_key, id);
        if let Some(wall_ms) = self.clock.filter(|_| !self.deadlines.is_empty()) {
            let raised = self.raised.entry((player.to_owned(), id.node_key));
            raised.or_default().push((id, wall_ms + at_ms));
        }
        let again = !self.handled.insert((id, player.to_owned()));
        match earlier {
            Some(other) if other == id || (other > id && again) => {
                self.fail(at_ms, "C", format!("{player} handled {id:?} twice"));
            }
            Some(other) if other > id => {
                self.fail(
                    at_ms,
                    "D",
                    format!("{player} handled {id:?} after {other:?}"),
                );
            }
            _ => {}
        }
    }

    /// Whether the player has handled later ones of that sender.
    fn is_beyond(&self, player: &str, id: MessageId) -> bool {
        let later = |session: &Session| session.highest.get(&id.node_key) > Some(&id);
        let sessions = self.sessions.get(player);
        sessions.is_some_and(|all| all.iter().any(later))
    }

    /// A sender got a receipt: promise A. `stored`: whether a row holds it.
    pub fn receipt(
        &mut self,
        at_ms: u64,
        id: MessageId,
        player: &str,
        outcome: Outcome,
        stored: bool,
    ) {
        self.receipts[outcome as usize - 1] += 1;
        let key = (id, player.to_owned());
        let handled = self.handled.contains(&key);
        // The row of a late joiner goes out, and its client's cursor is past it already.
        let late = self.groups.contains_key(&id) && self.is_beyond(player, id);
        let truth = match outcome {
            Outcome::Delivered => handled,
            // A row may be gone when the receipt arrives.
            Outcome::Stored => {
                stored || handled || late || self.is_past(at_ms, id) || self.gone.contains(&key)
            }
            Outcome::Expired => self.is_past(at_ms, id),
            Outcome::Passed => self.groups.contains_key(&id),
            _ => true,
        };
        if outcome == Outcome::Stored && !handled && late {
            self.joined_late.insert(key.clone());
        }
        if !truth {
            self.fail(
                at_ms,
                "A",
                format!("{outcome:?} for {id:?} to {player} is not true"),
            );
        }
        if let Some(known) = self.sent.get_mut(&key) {
            if let Some(first) = known.replace(outcome) {
                let text = format!("{outcome:?} for {id:?} to {player}, it was {first:?}");
                self.fail(at_ms, "A", text); // [40]
            }
        } else {
            self.fail(
                at_ms,
                "A",
                format!("a receipt for {id:?} to {player}, never sent"),
            );
        }
    }

    /// The last receipt for a message to a player.
    #[must_use]
    pub fn outcome(&self, id: MessageId, player: &str) -> Option<Outcome> {
        self.sent.get(&(id, player.to_owned())).copied().flatten()
    }

    /// Messages by recipient that senders took.
    #[must_use]
    pub fn sent_count(&self) -> u64 {
        self.sent.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: u64) -> MessageId {
        MessageId {
            node_key: 1,
            epoch: 1,
            seq,
        }
    }

    fn checker(seqs: &[u64]) -> Checker {
        let mut checker = Checker::default();
        checker.session_begins("p");
        for seq in seqs {
            checker.sent(id(*seq), "p");
        }
        checker
    }

    fn promises(checker: &Checker) -> Vec<&'static str> {
        checker.violations.iter().map(|v| v.promise).collect()
    }

    #[test]
    fn finds_a_message_handled_twice_and_out_of_order() {
        let mut checker = checker(&[1, 2]);
        for seq in [2, 2, 1] {
            checker.handled(0, "p", id(seq));
        }
        assert_eq!(promises(&checker), ["C", "D"]);
    }

    #[test]
    fn a_new_session_may_repeat_only_what_was_not_left() {
        let mut checker = checker(&[1]);
        checker.handled(0, "p", id(1));
        checker.session_begins("p");
        checker.handled(0, "p", id(1));
        assert_eq!(promises(&checker), Vec::<&str>::new());
        checker.session_left("p");
        checker.session_begins("p");
        checker.handled(0, "p", id(1));
        assert_eq!(promises(&checker), ["C"]);
    }

    #[test]
    fn finds_receipts_that_are_not_true() {
        let mut checker = checker(&[1, 2]);
        checker.receipt(0, id(1), "p", Outcome::Delivered, true);
        checker.receipt(0, id(2), "p", Outcome::Stored, false);
        assert_eq!(promises(&checker), ["A", "A"]);
    }

    #[test]
    fn finds_what_is_lost_at_the_end() {
        let mut checker = checker(&[1, 2]);
        checker.receipt(0, id(1), "p", Outcome::Stored, true);
        checker.end(0, &[("p".to_owned(), id(1))]);
        assert_eq!(promises(&checker), ["G", "B", "G"]);
    }
}
