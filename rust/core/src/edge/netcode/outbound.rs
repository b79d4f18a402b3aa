use std::collections::VecDeque;
use std::net::SocketAddr;

use super::limits::MAX_OUTBOUND_BYTES;

/// Datagrams waiting to be sent, packed in one arena that is reused.
#[derive(Default)]
pub(super) struct Outbound {
    arena: Vec<u8>,
    waiting: VecDeque<(SocketAddr, u32)>,
    read: usize,
}

impl Outbound {
    /// Lets `write` append one datagram; `false` when there is no room for it.
    pub(super) fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.waiting.is_empty() {
            self.arena.clear();
            self.read = 0;
        }
        if self.arena.len() >= MAX_OUTBOUND_BYTES {
            return false;
        }
        let start = self.arena.len();
        write(&mut self.arena);
        self.waiting
            .push_back((to, (self.arena.len() - start) as u32));
        true
    }

    pub(super) fn pop(&mut self) -> Option<(SocketAddr, &[u8])> {
        let (to, bytes) = self.waiting.pop_front()?;
        let start = self.read;
        self.read += bytes as usize;
        Some((to, &self.arena[start..self.read]))
    }
}
