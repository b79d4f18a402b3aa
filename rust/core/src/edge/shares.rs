use std::collections::BTreeMap;
use std::net::SocketAddr;

/// How many bytes of a queue wait for each address. Counted only from the first question on until the queue
/// is empty: a queue that is short for all is short for each, and costs nothing here.
#[derive(Debug, Default)]
pub struct Shares(Option<BTreeMap<SocketAddr, usize>>);

impl Shares {
    /// What waits for one address; `queued` is what the queue holds, in case nobody has counted yet.
    pub fn of(
        &mut self,
        to: SocketAddr,
        queued: impl IntoIterator<Item = (SocketAddr, usize)>,
    ) -> usize {
        let counted = self.0.get_or_insert_with(|| {
            let mut counted = BTreeMap::new();
            for (to, bytes) in queued {
                *counted.entry(to).or_default() += bytes;
            }
            counted
        });
        counted.get(&to).copied().unwrap_or_default()
    }

    /// A datagram was queued.
    #[inline]
    pub fn add(&mut self, to: SocketAddr, bytes: usize) {
        if let Some(counted) = &mut self.0 {
            *counted.entry(to).or_default() += bytes;
        }
    }

    /// A datagram has left the queue.
    #[inline]
    pub fn remove(&mut self, to: SocketAddr, bytes: usize) {
        if let Some(counted) = &mut self.0
            && let Some(waiting) = counted.get_mut(&to)
        {
            *waiting = waiting.saturating_sub(bytes);
            if *waiting == 0 {
                counted.remove(&to);
            }
        }
    }

    /// The queue is empty.
    #[inline]
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    proptest! {
        #[test]
        fn each_address_has_what_waits_for_it(
            steps in proptest::collection::vec((0_u8..4, 0_u16..4, 0_usize..100), 0..200)
        ) {
            let (mut shares, mut queue) = (Shares::default(), VecDeque::new());
            for (what, port, bytes) in steps {
                match what {
                    0 | 1 => {
                        queue.push_back((to(port), bytes));
                        shares.add(to(port), bytes);
                    }
                    2 => {
                        if let Some((to, bytes)) = queue.pop_front() {
                            shares.remove(to, bytes);
                        }
                        if queue.is_empty() {
                            shares.clear();
                        }
                    }
                    _ => {
                        let of_it = queue.iter().filter(|(address, _)| *address == to(port));
                        let waits: usize = of_it.map(|(_, bytes)| bytes).sum();
                        prop_assert_eq!(shares.of(to(port), queue.iter().copied()), waits);
                    }
                }
            }
        }
    }
}
