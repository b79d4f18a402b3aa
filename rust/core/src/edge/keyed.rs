use std::hash::{BuildHasher, Hasher};

/// An odd number with about as many ones as zeros: it spreads also a poor secret.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes with a secret, so that nobody can choose addresses that all fall into one bucket, and
/// the same in every process that is given the same secret (a simulation's runs are repeatable).
#[derive(Clone)]
pub struct Keyed(pub [u64; 2]);

/// The hasher of [`Keyed`].
pub struct KeyedHasher {
    state: u64,
    key: u64,
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher {
            state: self.0[0],
            key: (self.0[1] ^ SPREAD) | 1,
        }
    }
}

impl KeyedHasher {
    fn mix(&mut self, word: u64) {
        self.state = folded(self.state ^ word, self.key).wrapping_add(self.key.rotate_left(29));
    }
}

/// Both halves of the product, so that high bits reach low ones and the other way.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(bytes.len() as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn finish(&self) -> u64 {
        folded(self.state, SPREAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    #[test]
    fn neighbouring_addresses_fall_into_different_buckets() {
        let hash = Keyed([3, 5]);
        let bucket = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            hash.hash_one(SocketAddr::from(([10, b, c, d], 1000 + u16::from(a)))) % 4096
        };
        let buckets: BTreeSet<u64> = (0..4096).map(bucket).collect();
        // Chance alone fills 63 % of as many buckets.
        assert!(buckets.len() > 2400, "{}", buckets.len());
    }

    #[test]
    fn another_secret_is_another_hash() {
        let hashes: BTreeSet<u64> = (0..100)
            .map(|key| Keyed([1, 2 * key]).hash_one(7u64))
            .collect();
        assert_eq!(hashes.len(), 100);
    }
}
