use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use super::limits::MAX_USED_TOKENS;
use super::token::TokenTag;
use crate::edge::keyed::Keyed;

struct Use {
    from: SocketAddr,
    connected: bool,
}

/// The tokens that were shown and have not expired, and from where.
pub(super) struct UsedTokens {
    uses: HashMap<TokenTag, Use, Keyed>,
    by_expiry: BTreeSet<(u64, TokenTag)>,
}

impl UsedTokens {
    pub(super) fn new(hash: Keyed) -> Self {
        Self {
            uses: HashMap::with_hasher(hash),
            by_expiry: BTreeSet::new(),
        }
    }

    /// Whether this token may be shown from this address: new, or shown there and not yet connected.
    pub(super) fn allows(&self, token: &TokenTag, from: SocketAddr) -> bool {
        self.uses
            .get(token)
            .is_none_or(|used| used.from == from && !used.connected)
    }

    /// Remembers an authentic token until it expires; `false` when the table is full.
    pub(super) fn remember(&mut self, token: TokenTag, from: SocketAddr, expire_s: u64) -> bool {
        if self.uses.contains_key(&token) {
            return true;
        }
        if self.uses.len() >= MAX_USED_TOKENS {
            return false;
        }
        self.uses.insert(
            token,
            Use {
                from,
                connected: false,
            },
        );
        self.by_expiry.insert((expire_s, token));
        true
    }

    pub(super) fn set_connected(&mut self, token: &TokenTag) {
        if let Some(used) = self.uses.get_mut(token) {
            used.connected = true;
        }
    }

    /// Forgets tokens that are refused by their expiry from now on.
    pub(super) fn forget_expired(&mut self, unix_s: u64) {
        while let Some(&(expire_s, token)) = self.by_expiry.first() {
            if expire_s > unix_s {
                break;
            }
            self.by_expiry.pop_first();
            self.uses.remove(&token);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.uses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_it_refuses_new_tokens_and_forgets_none_before_its_time() {
        let mut used = UsedTokens::new(Keyed([1, 2]));
        let tag = |number: usize| (number as u128).to_le_bytes();
        let from = SocketAddr::from(([127, 0, 0, 1], 1));
        for number in 0..MAX_USED_TOKENS {
            assert!(used.remember(tag(number), from, 100 + (number % 2) as u64));
        }
        assert!(!used.remember(tag(MAX_USED_TOKENS), from, 500));
        assert!(used.remember(tag(0), from, 100), "a known one is not new");
        used.set_connected(&tag(1));
        used.forget_expired(100);
        assert_eq!(used.len(), MAX_USED_TOKENS / 2);
        assert!(!used.allows(&tag(1), from));
        assert!(used.allows(&tag(3), from));
        assert!(used.remember(tag(MAX_USED_TOKENS), from, 500));
    }
}
