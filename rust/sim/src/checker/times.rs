//! Deadlines, messages to be delivered later, and what is kept in a mailbox for so long [34, 37].

use super::Checker;
use zmqgame_core::bus::message::MessageId;
use zmqgame_core::bus::store::DEFERRED_KEY;

impl Checker {
    /// It need not be delivered after a time, unix ms.
    pub fn has_deadline(&mut self, id: MessageId, deadline_ms: u64) {
        self.deadlines.insert(id, deadline_ms);
    }

    /// The hub's wall clock is never wrong, and shows this at the virtual time 0.
    pub fn clock_is_right(&mut self, wall_ms: u64) {
        self.clock = Some(wall_ms);
    }

    /// Whether a message's deadline is, or may be, past.
    pub(super) fn is_past(&self, at_ms: u64, id: MessageId) -> bool {
        let past = |deadline: &u64| self.clock.is_none_or(|wall_ms| wall_ms + at_ms > *deadline);
        self.deadlines.get(&id).is_some_and(past)
    }

    /// The hub says that a message is expired for a player [34].
    pub fn expires(&mut self, id: MessageId, player: &str) {
        if self.clock.is_some() {
            self.expired.insert((id, player.to_owned()));
        }
    }

    /// The hub writes a delivery: what it has called expired goes out no more [34].
    pub fn goes_out(&mut self, at_ms: u64, id: MessageId, binding: u64) {
        if let Some(player) = self.bindings.get(&binding)
            && self.expired.contains(&(id, player.clone()))
        {
            let text = format!("{id:?} goes out to {player}, it was expired");
            self.fail(at_ms, "A", text);
        }
    }

    /// It is to be delivered later, and will arrive under another id: the token says which it is.
    pub fn deferred(&mut self, token: u64, id: MessageId, player: &str, deliver_at_ms: u64) {
        self.due.insert(token, deliver_at_ms);
        self.tokens.insert(id, token);
        self.deferred.insert(token, (id, player.to_owned()));
    }

    /// The token of a deferred message.
    #[must_use]
    pub fn token(&self, id: MessageId) -> Option<u64> {
        self.tokens.get(&id).copied()
    }

    /// A deferred message arrives at a host: once due, it has one id for ever [37].
    pub fn promoted(&mut self, at_ms: u64, id: MessageId, payload: &[u8]) {
        let token = payload.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let first = *self.arrived.entry(token).or_insert(id);
        if first != id || !self.deferred.contains_key(&token) {
            let text = format!("deferred message {token} as {id:?}, it was {first:?}");
            self.fail(at_ms, "C", text);
        }
        let due_ms = self.due.get(&token).copied().unwrap_or_default();
        if self.clock.is_some_and(|wall_ms| wall_ms + at_ms < due_ms) {
            let text = format!("deferred message {token} arrives, due at {due_ms} unix ms");
            self.fail(at_ms, "37", text);
        }
        self.promoted.insert(id, token);
    }

    /// Whether the player handled a later one of that sender before a message's deadline, behind which it was in line.
    pub(super) fn is_jumped(&self, player: &str, id: MessageId) -> bool {
        if self.tokens.contains_key(&id) {
            return false; // It is in line under the id of the deferred list.
        }
        let raised = self.raised.get(&(player.to_owned(), id.node_key));
        let (Some(raised), Some(deadline)) = (raised, self.deadlines.get(&id)) else {
            return false;
        };
        raised
            .iter()
            .any(|(other, unix_ms)| *other > id && unix_ms <= deadline)
    }

    /// A sender took a message: without a deadline of its own it is kept for so long.
    pub fn kept_from(&mut self, id: MessageId, unix_ms: u64) {
        self.sent_ms.insert(id, unix_ms);
    }

    /// Which message a row of a player is: a deferred one has an id of its own there.
    #[must_use]
    pub fn of_row(&self, id: MessageId, payload: &[u8]) -> MessageId {
        let token = payload.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let deferred = self.deferred.get(&token);
        match deferred.filter(|_| id.node_key == DEFERRED_KEY) {
            Some((original, _)) => *original,
            None => id,
        }
    }

    /// What was in a mailbox is deleted: somebody handled it, or its deadline is past, and the right one. `off_ms`: the
    /// hub's wall clock was never further off.
    pub fn deleted(&mut self, unix_ms: u64, off_ms: u64, player: &str, gone: Gone) {
        let Gone {
            id, deadline_ms, ..
        } = gone;
        let key = (id, player.to_owned());
        if self.handled.contains(&key) {
            return;
        }
        let past = deadline_ms != 0 && unix_ms + off_ms > deadline_ms;
        if !past && self.is_beyond(player, id) {
            return; // A late joiner's cursor.
        }
        let sent_ms = self.sent_ms.get(&id).copied().unwrap_or_default();
        let right = match self.deadlines.get(&id) {
            Some(own) => deadline_ms == *own,
            None => deadline_ms + off_ms >= sent_ms + gone.keep_ms,
        };
        if !past || !right {
            let text = format!("{id:?} of {player} is deleted at {unix_ms}, not {deadline_ms}");
            self.fail(gone.at_ms, "34", text);
        }
        self.gone.insert(key);
    }
}

/// What a mailbox has no more.
#[derive(Debug, Clone, Copy)]
pub struct Gone {
    /// Virtual ms.
    pub at_ms: u64,
    /// The message.
    pub id: MessageId,
    /// Its deadline in the mailbox.
    pub deadline_ms: u64,
    /// Without a deadline of its own it is kept for so long.
    pub keep_ms: u64,
}
