use std::collections::VecDeque;
use std::net::SocketAddr;

use super::limits::MAX_OUTBOUND_BYTES;
use crate::edge::shares::Shares;

/// What an empty queue keeps: more than a busy round needs.
const KEPT_BYTES: usize = 2 << 20;
/// About what a datagram of a game has.
const DATAGRAM_BYTES: usize = 64;

/// Datagrams waiting to be sent, packed in one arena that is reused.
#[derive(Default)]
pub(super) struct Outbound {
    arena: Vec<u8>,
    waiting: VecDeque<(SocketAddr, u32)>,
    read: usize,
    shares: Shares,
}

impl Outbound {
    /// Lets `write` append one datagram; `false` when there is no room for it.
    pub(super) fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.waiting_bytes() >= MAX_OUTBOUND_BYTES {
            return false;
        }
        self.reuse();
        let start = self.arena.len();
        write(&mut self.arena);
        let bytes = self.arena.len() - start;
        self.waiting.push_back((to, bytes as u32));
        self.shares.add(to, bytes);
        true
    }

    /// Bytes of all datagrams that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.arena.len() - self.read
    }

    /// Those for one address.
    pub(super) fn waiting_for(&mut self, to: SocketAddr) -> usize {
        let queued = self.waiting.iter();
        self.shares
            .of(to, queued.map(|&(to, bytes)| (to, bytes as usize)))
    }

    /// Bytes that it holds, used or not.
    pub(super) fn memory_bytes(&self) -> usize {
        self.arena.capacity() + self.waiting.capacity() * size_of::<(SocketAddr, u32)>()
    }

    /// Moves what waits to the front once what was sent is the larger part: each byte moves at
    /// most once for each byte that was sent.
    fn reuse(&mut self) {
        if self.read > self.arena.len() / 2 {
            self.arena.drain(..self.read);
            self.read = 0;
            if self.arena.is_empty() {
                // What a congestion has needed is not needed for ever.
                self.arena.shrink_to(KEPT_BYTES);
                self.waiting.shrink_to(KEPT_BYTES / DATAGRAM_BYTES);
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<(SocketAddr, &[u8])> {
        let (to, bytes) = self.waiting.pop_front()?;
        let start = self.read;
        self.read += bytes as usize;
        if self.waiting.is_empty() {
            self.shares.clear();
        } else {
            self.shares.remove(to, bytes as usize);
        }
        Some((to, &self.arena[start..self.read]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_queue_that_is_never_empty_stays_in_order_and_small() {
        let mut out = Outbound::default();
        let mut next = 0;
        for number in 0..10_000u32 {
            assert!(out.push(to(1), |bytes| {
                bytes.extend_from_slice(&number.to_le_bytes())
            }));
            if number >= 3 {
                assert_eq!(out.pop(), Some((to(1), &u32::to_le_bytes(next)[..])));
                next += 1;
            }
        }
        assert!(out.arena.capacity() < 100);
    }

    #[test]
    fn over_its_bound_it_takes_nothing_until_some_is_sent() {
        let mut out = Outbound::default();
        let mut count = 0;
        while out.push(to(2), |bytes| bytes.resize(bytes.len() + 1000, 7)) {
            count += 1;
        }
        assert_eq!(count, MAX_OUTBOUND_BYTES.div_ceil(1000));
        while out.pop().is_some() {
            count -= 1;
        }
        assert_eq!(count, 0);
        assert!(out.push(to(3), |bytes| bytes.push(1)));
        assert_eq!(out.pop(), Some((to(3), &[1][..])));
    }
}
