//! At most one deadline for each token, in order.

use std::collections::{BTreeSet, HashMap};

use crate::reactor::Token;

/// Deadlines in milliseconds of the loop's clock.
///
/// A busy connection should not move its timer at every byte: let it fire, compare with the time of
/// the last byte, and set it again.
#[derive(Debug, Default)]
pub struct Timers {
    order: BTreeSet<(u64, Token)>,
    at_ms: HashMap<Token, u64>,
}

impl Timers {
    /// Sets the token's deadline in place of the one it had.
    pub fn set(&mut self, token: Token, at_ms: u64) {
        if let Some(old) = self.at_ms.insert(token, at_ms) {
            if old == at_ms {
                return;
            }
            self.order.remove(&(old, token));
        }
        self.order.insert((at_ms, token));
    }

    /// Takes the token's deadline away.
    pub fn cancel(&mut self, token: Token) {
        if let Some(at_ms) = self.at_ms.remove(&token) {
            self.order.remove(&(at_ms, token));
        }
    }

    /// The nearest deadline.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.order.first().map(|&(at_ms, _)| at_ms)
    }

    /// The next token whose deadline has come; its timer is gone.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<Token> {
        let &(at_ms, token) = self.order.first()?;
        if at_ms > now_ms {
            return None;
        }
        self.order.pop_first();
        self.at_ms.remove(&token);
        Some(token)
    }

    /// How many are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_and_once() {
        let mut timers = Timers::default();
        timers.set(Token(1), 30);
        timers.set(Token(2), 10);
        timers.set(Token(3), 20);
        timers.set(Token(1), 5);
        timers.cancel(Token(3));
        assert_eq!(timers.next_ms(), Some(5));
        assert_eq!(timers.pop_due(4), None);
        assert_eq!(timers.pop_due(10), Some(Token(1)));
        assert_eq!(timers.pop_due(10), Some(Token(2)));
        assert_eq!(timers.pop_due(1_000), None);
        assert!(timers.is_empty());
    }
}
