use std::hash::{BuildHasher, Hasher};

/// Hashes with a secret, so that nobody can choose addresses that all fall into one bucket, and
/// the same in every process that is given the same secret (a simulation's runs are repeatable).
#[derive(Clone)]
pub(super) struct Keyed(pub(super) [u64; 2]);

pub(super) struct KeyedHasher {
    state: u64,
    key: u64,
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher {
            state: self.0[0],
            key: self.0[1] | 1,
        }
    }
}

impl KeyedHasher {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key);
        self.state =
            ((product >> 64) as u64 ^ product as u64).wrapping_add(self.key.rotate_left(29));
    }
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
        self.state ^ self.state >> 32
    }
}
