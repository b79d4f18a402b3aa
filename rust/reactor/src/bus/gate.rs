//! Who may open a connection now: buckets of tokens, one for all and one an address.
//!
//! A CURVE handshake costs four multiplications, about 0.2 ms. Without a bound, whoever may connect could
//! spend all of the loop's time; behind one address's bucket a flood starves nobody else, and behind the
//! common one many addresses don't either: an address that has proven a key draws from its own only.

use std::collections::BTreeMap;

use super::limits::{ADDRESS_BURST, ADDRESS_RATE, ADDRESSES, CONNECTION_BURST, CONNECTION_RATE};

/// Tokens in thousandths, so that a millisecond adds a whole number of them.
#[derive(Debug)]
struct Bucket {
    tokens: u64,
    at_ms: u64,
    rate: u64,
    burst: u64,
}

impl Bucket {
    const fn full(rate: u64, burst: u64, now_ms: u64) -> Self {
        Self {
            tokens: burst * 1_000,
            at_ms: now_ms,
            rate,
            burst,
        }
    }

    fn fill(&mut self, now_ms: u64) {
        let added = now_ms.saturating_sub(self.at_ms).saturating_mul(self.rate);
        self.tokens = self.tokens.saturating_add(added).min(self.burst * 1_000);
        self.at_ms = now_ms;
    }

    fn take(&mut self, now_ms: u64) -> bool {
        self.fill(now_ms);
        let has = self.tokens >= 1_000;
        if has {
            self.tokens -= 1_000;
        }
        has
    }

    fn is_full(&mut self, now_ms: u64) -> bool {
        self.fill(now_ms);
        self.tokens == self.burst * 1_000
    }
}

#[derive(Debug)]
struct Address {
    bucket: Bucket,
    /// Somebody there has finished a handshake with a key.
    proven: bool,
}

/// The buckets.
#[derive(Debug)]
pub struct Gate {
    all: Bucket,
    addresses: BTreeMap<String, Address>,
}

impl Gate {
    /// With full buckets.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self {
            all: Bucket::full(CONNECTION_RATE, CONNECTION_BURST, now_ms),
            addresses: BTreeMap::new(),
        }
    }

    /// One more connection from `address`.
    ///
    /// # Errors
    /// Which bucket is empty.
    pub fn admit(&mut self, now_ms: u64, address: &str) -> Result<(), String> {
        let host = host_of(address);
        if !self.addresses.contains_key(host) {
            if self.addresses.len() >= ADDRESSES {
                self.forget(now_ms);
            }
            let bucket = Bucket::full(ADDRESS_RATE, ADDRESS_BURST, now_ms);
            let entry = Address {
                bucket,
                proven: false,
            };
            self.addresses.insert(host.to_owned(), entry);
        }
        let entry = self.addresses.get_mut(host).expect("inserted above");
        if !entry.bucket.take(now_ms) {
            return Err(format!(
                "{ADDRESS_RATE} connections a second from one address"
            ));
        }
        if !entry.proven && !self.all.take(now_ms) {
            return Err(format!(
                "{CONNECTION_RATE} connections a second from strangers"
            ));
        }
        Ok(())
    }

    /// A peer there has proven its key.
    pub fn proven(&mut self, address: &str) {
        if let Some(entry) = self.addresses.get_mut(host_of(address)) {
            entry.proven = true;
        }
    }

    /// Addresses with full buckets have nothing to be remembered for; if all are busy, strangers go, and
    /// their next connection still draws from the common bucket.
    fn forget(&mut self, now_ms: u64) {
        self.addresses
            .retain(|_, entry| entry.proven || !entry.bucket.is_full(now_ms));
        if self.addresses.len() >= ADDRESSES {
            self.addresses.retain(|_, entry| entry.proven);
        }
        if self.addresses.len() >= ADDRESSES {
            self.addresses.clear();
        }
    }
}

/// Without the port; a Unix socket's peers have no name.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(gate: &mut Gate, now_ms: u64, address: &str, tries: u64) -> u64 {
        (0..tries)
            .filter(|port| gate.admit(now_ms, &format!("{address}:{port}")).is_ok())
            .count() as u64
    }

    #[test]
    fn an_address_has_its_burst_and_then_its_rate() {
        let mut gate = Gate::new(0);
        assert_eq!(admitted(&mut gate, 0, "10.0.0.1", 5_000), ADDRESS_BURST);
        assert_eq!(admitted(&mut gate, 1_000, "10.0.0.1", 5_000), ADDRESS_RATE);
        assert_eq!(admitted(&mut gate, 1_000, "[::1]", 1), 1);
    }

    #[test]
    fn many_addresses_together_have_theirs_and_the_proven_go_on() {
        let mut gate = Gate::new(0);
        assert_eq!(admitted(&mut gate, 0, "10.9.9.9", 1), 1);
        gate.proven("10.9.9.9:0");
        let strangers: u64 = (0..10_000)
            .map(|n| admitted(&mut gate, 0, &format!("10.0.{}.{}", n / 256, n % 256), 1))
            .sum();
        assert_eq!(strangers, CONNECTION_BURST - 1);
        assert_eq!(admitted(&mut gate, 0, "10.9.9.9", 100), 100);
        assert!(gate.addresses.len() <= ADDRESSES);
    }
}
