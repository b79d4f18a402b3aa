//! Which sequence numbers came already: the newest one and a bit for each of the 256 before it.

use super::limits::REPLAY_WINDOW;

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// The numbers received in one direction of one session.
///
/// Bit `n % 256` says that `n` came, for every `n` in `(newest - 256, newest]`.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    newest: Option<u64>,
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether a packet with this number must be ignored: too old to say, or seen.
    pub fn is_replay(&self, sequence: u64) -> bool {
        let Some(newest) = self.newest else {
            return false;
        };
        if sequence > newest {
            return false;
        }
        // Subtracted, not added: the sum would overflow at the end of the number space.
        newest - sequence >= REPLAY_WINDOW || self.seen[word(sequence)] & bit(sequence) != 0
    }

    /// Records a number whose packet was authentic; before that, an attacker could move the window.
    pub fn record(&mut self, sequence: u64) {
        match self.newest {
            Some(newest) if sequence <= newest => {}
            Some(newest) if sequence - newest < REPLAY_WINDOW => {
                for skipped in newest + 1..=sequence {
                    self.seen[word(skipped)] &= !bit(skipped);
                }
                self.newest = Some(sequence);
            }
            _ => {
                self.seen = [0; WORDS];
                self.newest = Some(sequence);
            }
        }
        self.seen[word(sequence)] |= bit(sequence);
    }
}

fn word(sequence: u64) -> usize {
    (sequence % REPLAY_WINDOW / 64) as usize
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_ends_of_the_number_space_are_ordinary_numbers() {
        for newest in [0, 255, 256, u64::MAX - 1, u64::MAX] {
            let mut window = ReplayWindow::default();
            assert!(!window.is_replay(newest));
            window.record(newest);
            assert!(window.is_replay(newest));
            if newest >= 256 {
                assert!(window.is_replay(newest - 256));
                assert!(!window.is_replay(newest - 255));
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_numbers(steps in prop::collection::vec(0u64..600, 1..400), base in prop::sample::select(vec![0u64, 1 << 40, u64::MAX - 700])) {
            let (mut window, mut all) = (ReplayWindow::default(), BTreeSet::new());
            for step in steps {
                let sequence = base + step;
                let newest = all.last().copied();
                let expected = all.contains(&sequence) || newest.is_some_and(|n: u64| n >= sequence && n - sequence >= 256);
                prop_assert_eq!(window.is_replay(sequence), expected);
                if !expected {
                    window.record(sequence);
                    all.insert(sequence);
                }
            }
        }
    }
}
