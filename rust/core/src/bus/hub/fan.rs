//! One message for many players: its targets, link by link.

use crate::bus::message::Number;
use crate::bus::wire::{Item, List, Writer};
use crate::limits::MAX_LIST_ITEMS;

/// Bytes of one target.
const TARGET_BYTES: usize = 12;

/// Targets as they will stand in the message, so that each is written once. Used again by each send.
#[derive(Debug, Default)]
pub struct Fan {
    lists: Vec<(u32, Vec<u8>)>,
    /// How many of them this message has.
    used: usize,
    /// By link: its list and one more; 0 none.
    places: Vec<u32>,
}

impl Fan {
    /// One more target on a link.
    pub fn push(&mut self, link: u32, number: Number) {
        let at = link as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, 0);
        }
        if self.places[at] == 0 {
            if self.used == self.lists.len() {
                self.lists.push((link, Vec::new()));
            }
            self.lists[self.used].0 = link;
            self.used += 1;
            self.places[at] = self.used as u32;
        }
        let out = &mut self.lists[self.places[at] as usize - 1].1;
        let written = number.write(&mut Writer { out });
        debug_assert!(written.is_ok(), "numbers can be written");
    }

    /// Each link with its targets, in as few lists as there may be.
    pub fn lists(&self) -> impl Iterator<Item = (u32, List<'_, Number>)> {
        self.lists[..self.used].iter().flat_map(|(link, bytes)| {
            let parts = bytes.chunks(MAX_LIST_ITEMS * TARGET_BYTES);
            parts.map(|bytes| {
                let count = bytes.len() / TARGET_BYTES;
                (*link, List::Encoded { count, bytes })
            })
        })
    }

    /// Ready for the next message.
    pub fn clear(&mut self) {
        for (link, bytes) in &mut self.lists[..self.used] {
            self.places[*link as usize] = 0;
            bytes.clear();
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Whatever the order of links: each has its targets, in order, whole; and nothing of the message before.
        #[test]
        fn each_link_has_its_own(
            messages in proptest::collection::vec(proptest::collection::vec((0u32..5, 1u32..9), 0..40), 1..4)
        ) {
            let mut fan = Fan::default();
            for targets in messages {
                fan.clear();
                let mut expected: BTreeMap<u32, Vec<Number>> = BTreeMap::new();
                for (link, number) in targets {
                    let number = Number { binding: u64::from(number) << 40, number };
                    fan.push(link, number);
                    expected.entry(link).or_default().push(number);
                }
                let found: BTreeMap<u32, Vec<Number>> = fan.lists().map(|(link, list)| (link, list.iter().collect())).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn more_than_a_list_may_have_are_several() {
        let mut fan = Fan::default();
        (0..MAX_LIST_ITEMS as u32 + 1)
            .for_each(|number| fan.push(3, Number { binding: 1, number }));
        let counts: Vec<_> = fan.lists().map(|(link, list)| (link, list.len())).collect();
        assert_eq!(counts, [(3, MAX_LIST_ITEMS), (3, 1)]);
    }
}
