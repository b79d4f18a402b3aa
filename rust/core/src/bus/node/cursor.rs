//! What a session has handled: the last id of each sender (BUS.md rules 26, 27, 32).

use crate::bus::message::{Mark, MessageId, POLICY_SEQ};

/// One mark a sender. Ids at or below it are handled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// By sender. There are few: a hub lets no cursor have more than 64.
    marks: Vec<Mark>,
}

impl Cursor {
    fn find(&self, node_key: u64) -> Result<usize, usize> {
        self.marks
            .binary_search_by_key(&node_key, |mark| mark.node_key)
    }

    /// Whether `id` was handled.
    #[must_use]
    pub fn covers(&self, id: MessageId) -> bool {
        self.find(id.node_key).is_ok_and(|at| id <= self.marks[at])
    }

    /// Moves the sender's mark to `id`, never back.
    pub fn raise(&mut self, id: MessageId) {
        match self.find(id.node_key) {
            Ok(at) => self.marks[at] = self.marks[at].max(id),
            Err(at) => self.marks.insert(at, id),
        }
    }

    /// The greater of both, sender by sender [27].
    pub fn join(&mut self, other: &Self) {
        for mark in other.marks() {
            self.raise(mark);
        }
    }

    /// Removes the sender's mark if it is at or below `up_to` [32].
    pub fn forget(&mut self, up_to: Mark) {
        if let Ok(at) = self.find(up_to.node_key)
            && self.marks[at] <= up_to
        {
            self.marks.remove(at);
        }
    }

    /// All marks, by sender.
    pub fn marks(&self) -> impl Iterator<Item = Mark> + '_ {
        self.marks.iter().copied()
    }
}

impl FromIterator<Mark> for Cursor {
    fn from_iter<T: IntoIterator<Item = Mark>>(marks: T) -> Self {
        let mut cursor = Self::default();
        // [33] `latest` and `droppable` have no place here, whatever a client says.
        for mark in marks.into_iter().filter(|mark| mark.seq & POLICY_SEQ == 0) {
            cursor.raise(mark);
        }
        cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(node_key: u64, epoch: u64, seq: u64) -> MessageId {
        MessageId {
            node_key,
            epoch,
            seq,
        }
    }

    #[test]
    fn order_is_epoch_then_seq_for_each_sender() {
        let mut cursor = Cursor::from_iter([id(1, 2, 5)]);
        assert!(cursor.covers(id(1, 1, 900)) && cursor.covers(id(1, 2, 5)));
        assert!(
            !cursor.covers(id(1, 2, 6))
                && !cursor.covers(id(1, 3, 1))
                && !cursor.covers(id(2, 1, 1))
        );
        cursor.raise(id(1, 1, 7));
        assert_eq!(cursor.marks().collect::<Vec<_>>(), [id(1, 2, 5)]);
    }

    #[test]
    fn forget_removes_only_what_is_at_or_below() {
        let mut cursor = Cursor::from_iter([id(1, 2, 5), id(2, 1, 1)]);
        cursor.forget(id(1, 2, 4));
        cursor.forget(id(2, 1, 1));
        cursor.forget(id(3, 1, 1));
        assert_eq!(cursor.marks().collect::<Vec<_>>(), [id(1, 2, 5)]);
    }

    #[test]
    fn join_takes_the_greater_of_both() {
        let mut cursor = Cursor::from_iter([id(1, 2, 5), id(2, 1, 1)]);
        cursor.join(&Cursor::from_iter([id(1, 2, 4), id(2, 3, 1), id(3, 1, 1)]));
        assert_eq!(
            cursor.marks().collect::<Vec<_>>(),
            [id(1, 2, 5), id(2, 3, 1), id(3, 1, 1)]
        );
    }
}
